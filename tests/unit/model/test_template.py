"""Templates: what Go's text/template makes of them, what it refuses, and that none takes long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import InvalidArgument
from weft.model.service import ContainerSpec, Mount
from weft.model.task_templates import expanded, task_values
from weft.model.template import DEEPEST, MOST_TEMPLATES, Template

LABELS = {"com.docker.stack.namespace": "shop", "tier": "web"}
VALUES = task_values(
    ("s1", "web", LABELS), ("n1", "host", "linux", "x86_64"), ("t1", "web.1.t1", "1")
)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("plain }} text", "plain }} text"),
        ("{{.Service.ID}} {{.Service.Name}}", "s1 web"),
        ("{{ .Node.ID }}/{{.Node.Hostname}}/{{.Node.Platform.OS}}-{{.Node.Platform.Architecture}}", "n1/host/linux-x86_64"),
        ("{{.Task.ID}} {{.Task.Name}} {{.Task.Slot}}", "t1 web.1.t1 1"),
        ("{{.Node.Platform}}", "{x86_64 linux}"),
        ("{{.Service.Labels}}", "map[com.docker.stack.namespace:shop tier:web]"),
        ("{{.Service.Labels.tier}}", "web"),
        ('{{index .Service.Labels "com.docker.stack.namespace"}}', "shop"),
        ('[{{index .Service.Labels "missing"}}]', "[]"),
        ('{{if eq .Task.Slot "1"}}first{{else}}other{{end}}', "first"),
        ('{{if eq .Task.Slot "7" "1"}}a{{end}}', "a"),
        ('{{if ne .Task.Slot "1"}}a{{else if eq .Node.ID "n1"}}b{{else}}c{{end}}', "b"),
        ('{{if and (eq .Task.Slot "1") (not (eq .Node.ID "n2"))}}yes{{end}}', "yes"),
        ('{{or (index .Service.Labels "missing") "default"}}', "default"),
        ('{{with index .Service.Labels "tier"}}<{{.}}>{{else}}none{{end}}', "<web>"),
        ('{{with index .Service.Labels "no"}}<{{.}}>{{else}}none{{end}}', "none"),
        ("{{range $k, $v := .Service.Labels}}{{$k}}={{$v}};{{end}}", "com.docker.stack.namespace=shop;tier=web;"),
        ("{{range .Service.Labels}}{{.}} {{else}}none{{end}}", "shop web "),
        ("{{$x := .Task.Slot}}{{$x}}{{$.Service.Name}}", "1web"),
        ('{{$x := "a"}}{{if true}}{{$x = "b"}}{{end}}{{$x}}', "b"),
        ('{{join "-" .Service.Name .Task.Slot}}', "web-1"),
        ('{{printf "%s-%03d-%q-%v-%%" .Service.Name 7 "x" true}}', 'web-007-"x"-true-%'),
        ('{{printf "%d" "x"}}{{printf "%s"}}', "%!d(x)%!s(MISSING)"),
        ('{{print 1 2 "a" 3}} {{println "a" 1}}', "1 2a3 a 1\n"),
        ('{{.Service.Name | printf "%s!" | print "<"}}', "<web!"),
        ("{{len .Service.Labels}} {{len .Service.Name}}", "2 3"),
        ("{{slice .Service.Name 1}} {{slice .Service.Name 0 2}}", "eb we"),
        ("{{lt 1 2}} {{ge 1.5 2.5}} {{gt \"b\" \"a\"}}", "true false true"),
        ("a {{- .Task.Slot -}} b", "a1b"),
        ("a{{/* said to nobody */}}b {{- /* and trimmed */ -}} c", "abc"),
        ('{{"{{"}}.Task.Slot{{"}}"}}', "{{.Task.Slot}}"),
        ("{{`raw \\n`}} {{\"\\u0041\\x42\\n\"}}", "raw \\n AB\n"),
        ("{{(index .Service.Labels \"tier\")}} {{(print .Task.Slot)}}", "web 1"),
        ("{{with .Node}}{{.Platform.OS}}{{end}} {{with $.Task}}{{.Slot}}{{end}}", "linux 1"),
        ("{{true}} {{false}} {{-3}} {{1.50}}", "true false -3 1.5"),
    ],
)  # fmt: skip
def test_what_becomes_of_it(text: str, filled: str) -> None:
    assert Template(text).expand(VALUES) == filled


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{{.Task.Slot", "unclosed action"),
        ("{{", "unclosed action"),
        ("{{.Task.Slot}", "unexpected"),
        ("{{}}", "missing value for command"),
        ("{{/* a */ .Task}}", "unclosed action"),
        ("{{/* a }}", "unclosed comment"),
        ("{{print 1.2.3}}", "bad number syntax"),
        ("{{if true}}x", "{{end}} is missing"),
        ("{{if true}}x{{else}}y{{else}}z{{end}}", "unexpected {{else}}"),
        ("x{{end}}", "unexpected {{end}}"),
        ("{{nonsense .Task}}", "function 'nonsense' not defined"),
        ('{{template "x"}}', "template is not supported by Weft"),
        ("{{html .Task.ID}}", "html is not supported by Weft"),
        ("{{.Task.ID .Task.Slot}}", "only functions have arguments"),
        ("{{print 1 | .Task.ID}}", "non executable command in pipeline"),
        ("{{(print 1}}", "unclosed left paren"),
        ('{{"a}}', "unexpected"),
        ('{{"\\q"}}', "invalid escape"),
        ("{{. := 1}}", "cannot assign"),
        ("{{" + "(" * (DEEPEST + 1) + "1" + ")" * (DEEPEST + 1) + "}}", "levels deep"),
        ("{{if 1}}" * 5000 + "{{end}}" * 5000, "levels deep"),
        ("{{print" + " 1" * 20_000 + "}}", "more than 10000 words"),
    ],
)
def test_what_is_no_template(text: str, cause: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        Template(text)
    assert str(raised.value).startswith("cannot expand template ")
    assert cause in str(raised.value)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{{.Nonsense}}", "can't evaluate field 'Nonsense'"),
        ("{{.Node.Slot}}", "can't evaluate field 'Slot'"),
        ("{{.Task.Slot.More}}", "can't evaluate field 'More'"),
        ("{{.Service.Labels.missing}}", "map has no entry for key 'missing'"),
        ("{{$x}}", "undefined variable '$x'"),
        ('{{eq "1" 1}}', "incompatible types for comparison"),
        ("{{eq 1}}", "missing argument for comparison"),
        ("{{index .Task.Slot 9}}", "cannot index"),
        ("{{slice .Task.Slot 2 1}}", "cannot slice"),
        ("{{range .Task.Slot}}{{end}}", "range can't iterate over"),
        ('{{join}}', "join needs"),
        ('{{len "a" "b"}}', "wrong arguments for len"),
        ("{{printf 1}}", "it needs a pattern"),
        ('{{printf "%999d" 1}}' * 200, "longer than"),
        ("{{range .Service.Labels}}{{range $.Service.Labels}}x{{end}}{{end}}" * 1200, "steps"),
    ],
)  # fmt: skip
def test_what_cannot_be_filled_in(text: str, cause: str) -> None:
    template = Template(text)
    with pytest.raises(InvalidArgument) as raised:
        template.expand(VALUES)
    assert cause in str(raised.value)


@given(st.text(st.sampled_from('{}().$|:=,"`\\-/* \nABabif1')), st.text(max_size=20))
def test_any_text_is_filled_in_or_refused(inside: str, environment: str) -> None:
    for text in (
        inside,
        f"{environment}{{{{{inside}}}}}{environment}",
        f"{{{{if {inside}}}}}x{{{{end}}}}",
    ):
        try:
            Template(text).expand(VALUES)
        except InvalidArgument:
            continue


def test_what_of_a_container_is_a_template() -> None:
    container = ContainerSpec(
        image="a",
        hostname="{{.Task.Slot}}",
        dir="{{.X}}",
        args=("{{.X}}",),
        env=("{{.X}}={{.Task.ID}}", "NAME={{.Service.Name}}", "ALONE"),
        mounts=(Mount(type="bind", source="/{{.Node.ID}}", target="/{{.Task.Slot}}"),),
    )
    filled = expanded(container, VALUES)
    assert filled.env == ("{{.X}}=t1", "NAME=web", "ALONE")
    assert (filled.hostname, filled.dir, filled.args) == ("1", "{{.X}}", ("{{.X}}",))
    assert filled.mounts == (Mount(type="bind", source="/n1", target="/1"),)


def test_a_failure_says_where_it_is() -> None:
    for what, container in (
        ("env", ContainerSpec(image="a", env=("A={{.X}}",))),
        ("hostname", ContainerSpec(image="a", hostname="{{.X}}")),
        ("mounts", ContainerSpec(image="a", mounts=(Mount(type="tmpfs", target="{{.X}}"),))),
    ):
        with pytest.raises(
            InvalidArgument, match=f"^expanding {what} failed: cannot expand template '{{{{.X}}}}'"
        ):
            expanded(container, VALUES)
    many = ContainerSpec(image="a", env=("A={{1}}",) * (MOST_TEMPLATES + 1))
    with pytest.raises(InvalidArgument, match="1001 are more than 1000"):
        expanded(many, VALUES)
