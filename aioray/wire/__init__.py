"""Every message that crosses a process: read `values`, then `calls`, then `control`; `framing` puts them on a socket."""
