from aioray.wire.calls import Call
from aioray.wire.one_call import decode_call, encode_call
from aioray.wire.values import Value


def test_a_call_travels_alone_inside_an_actor_spec() -> None:
    call = Call(1, "__init__", b"args", ("a",), [(0, Value(b"x"))])
    assert decode_call(encode_call(call)) == call
