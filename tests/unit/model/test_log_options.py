"""Options of log drivers: their values, and the messages of syslog."""

import pytest

from weft.errors import InvalidArgument, Unsupported
from weft.model.container import LogLine
from weft.model.log_options import FilePolicy, file_policy
from weft.model.syslog import SyslogTarget, syslog_message, syslog_target


@pytest.mark.parametrize(
    ("driver", "options", "policy"),
    [
        ("json-file", {}, FilePolicy(64 << 20, 1, False)),
        ("json-file", {"max-size": "1.5MiB", "max-file": "2"}, FilePolicy(1_500_000, 2, False)),
        ("json-file", {"max-size": "10", "max-file": "3", "compress": "T"}, FilePolicy(10, 3, True)),
        ("local", {}, FilePolicy(20_000_000, 5, True)),
        ("local", {"max-size": "2 kb", "compress": "0", "max-file": "1"}, FilePolicy(2000, 1, False)),
        ("none", {}, FilePolicy(64 << 20, 1, False)),
    ],
)  # fmt: skip
def test_what_is_kept(driver: str, options: dict[str, str], policy: FilePolicy) -> None:
    assert file_policy(driver, options) == policy


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"max-size": ""}, "invalid size: ''"),
        ({"max-size": "-1"}, "invalid size: '-1'"),
        ({"max-size": "0"}, "max-size must be a positive number"),
        ({"max-size": "0.4"}, "max-size must be a positive number"),
        ({"max-size": "9999p"}, "max-size must be a positive number"),
        ({"max-size": "1" * 400}, "max-size must be a positive number"),
        ({"max-size": "1bb"}, "invalid suffix: 'bb'"),
        ({"max-size": "1kk"}, "invalid suffix: 'kk'"),
        ({"max-file": "many"}, "invalid value for max-file: many: not a number"),
        ({"max-file": "1001"}, "max-file cannot be more than 1000"),
    ],
)
def test_values_that_are_refused(options: dict[str, str], cause: str) -> None:
    for driver in ("json-file", "local"):
        with pytest.raises(InvalidArgument) as refused:
            file_policy(driver, options)
        assert cause in str(refused.value)


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("", ("local", "", 0, "")),
        ("udp://[::1]", ("udp", "::1", 514, "")),
        ("tcp://logs.example:6514", ("tcp", "logs.example", 6514, "")),
        ("unix:///dev/log", ("unix", "", 0, "/dev/log")),
    ],
)
def test_addresses_of_syslog(address: str, target: tuple[str, str, int, str]) -> None:
    found = syslog_target({"syslog-address": address})
    assert (found.transport, found.host, found.port, found.path) == target
    assert (found.facility, found.format) == (3, "")


@pytest.mark.parametrize(
    ("options", "error", "cause"),
    [
        ({"syslog-address": "http://x"}, InvalidArgument, "unsupported scheme: 'http'"),
        ({"syslog-address": "x"}, InvalidArgument, "unsupported scheme: ''"),
        ({"syslog-address": "udp://"}, InvalidArgument, "it has no host or path"),
        ({"syslog-address": "udp://x:99999"}, InvalidArgument, "invalid value for syslog-address"),
        ({"syslog-address": "tcp+tls://x"}, Unsupported, "syslog over TLS"),
        ({"syslog-facility": "local8"}, InvalidArgument, "invalid syslog facility"),
        ({"syslog-facility": "24"}, InvalidArgument, "invalid syslog facility"),
        ({"syslog-facility": "post"}, InvalidArgument, "invalid syslog facility"),
        ({"syslog-format": "json"}, InvalidArgument, "Invalid syslog format"),
    ],
)
def test_options_of_syslog_that_are_refused(
    options: dict[str, str], error: type[Exception], cause: str
) -> None:
    with pytest.raises(error, match=cause.replace("+", r"\+")):
        syslog_target(options)


@pytest.mark.parametrize(
    ("format", "start", "middle"),
    [
        ("", "<30>", " na_me[7]: text\n"),
        ("rfc3164", "<30>", " host na_me[7]: text\n"),
        ("rfc5424", "<30>1 20", " host na_me 7 na_me - text\n"),
        ("rfc5424micro", "<30>1 20", " host na_me 7 na_me - text\n"),
    ],
)
def test_messages_of_syslog(format: str, start: str, middle: str) -> None:
    target = SyslogTarget(transport="local", facility=3, format=format)
    line = LogLine(1, 1_767_225_600_123_456_789, b"text\n")
    message = syslog_message(target, line, "na\nme", "host", 7).decode()
    assert message.startswith(start)
    assert message.endswith(middle)
    assert (".123456" in message) == (format == "rfc5424micro")
    assert syslog_message(target, LogLine(2, 0, b"x"), "t", "h", 1).startswith(b"<27>")
