"""Every message that crosses a process: read `values`, `calls`, `control`; `framing` puts them on a socket."""
