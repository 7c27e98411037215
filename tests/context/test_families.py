"""Chat templates of the families that engines run: what the probe says of each, and lint with it.

Each template here is written anew, after its family's documented format of turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import jinja2
import pytest

from agentbus.context import Cause, Finding, Linter, Part, Prompt, Render, Template, Turn, probe

LLAMA2 = """
{%- if messages[0].role == 'system' -%}
{%- set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' -%}
{%- set rest = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set rest = messages -%}{%- endif -%}
{%- for m in rest -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}{{ refuse('must alternate') }}{%- endif -%}
{%- if m.role == 'user' -%}
{{ '<s>[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' }}
{%- else -%}{{ ' ' + m.content.strip() + ' </s>' }}{%- endif -%}
{%- endfor -%}
"""
LLAMA31 = """
{{- '<|begin_of_text|>' -}}
{%- if messages[0].role == 'system' -%}
{%- set system = messages[0].content.strip() -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set rest = messages -%}{%- endif -%}
{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n' + system -}}
{{ '<|eot_id|>' -}}
{%- for m in rest -%}
{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content.strip() + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif -%}
"""
_CHATML_TURNS = """
{%- for m in messages -%}
{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""
SMOLLM2 = (
    """{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\nYou help, and are called small.<|im_end|>\n' }}
{%- endif -%}"""
    + _CHATML_TURNS
)
QWEN25 = """
{%- if messages[0].role == 'system' -%}
{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- else -%}{{ '<|im_start|>system\nYou come from afar.<|im_end|>\n' }}{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'user' or m.role == 'assistant' or (m.role == 'system' and not loop.first) -%}
{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""
QWEN3 = """
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
{%- set thought = '' -%}{%- set text = m.content -%}
{%- if m.role == 'assistant' and '</think>' in text -%}
{%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') -%}
{%- set text = text.split('</think>')[-1].lstrip('\n') -%}
{%- endif -%}
{%- if m.role == 'assistant' and loop.index0 > ns.last and (thought or loop.last) -%}
{%- set text = '<think>\n' + thought + '\n</think>\n\n' + text -%}
{%- endif -%}
{{ '<|im_start|>' + m.role + '\n' + text + '<|im_end|>' + '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""
MISTRAL = """
{{- '<s>' -}}
{%- if messages[0].role == 'system' -%}
{%- set system = messages[0].content + '\n\n' -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set rest = messages -%}{%- endif -%}
{%- for m in rest -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}{{ refuse('must alternate') }}{%- endif -%}
{%- if m.role == 'user' -%}
{{ '[INST] ' + (system if loop.last else '') + m.content + '[/INST]' }}
{%- else -%}{{ ' ' + m.content + '</s>' }}{%- endif -%}
{%- endfor -%}
"""
GEMMA = """
{{- '<bos>' -}}
{%- for m in messages -%}
{%- if m.role == 'system' -%}{{ refuse('no system role') }}{%- endif -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}{{ refuse('must alternate') }}{%- endif -%}
{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' -}}
{{ m.content.strip() + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""


class Family(NamedTuple):
    """A template, and what the probe is to say of it: `problem` is empty if it can be extended."""

    source: str
    problem: str
    strips: bool
    default_system: str = ""


FAMILIES = {
    "Llama 2": Family(LLAMA2, "alternate", True),
    "Llama 3.1": Family(LLAMA31, "", True, "Today Date: 26 Jul 2024"),
    "SmolLM2": Family(SMOLLM2, "", False, "called small"),
    "Qwen2.5": Family(QWEN25, "", False, "come from afar"),
    "Qwen3": Family(QWEN3, "drops parts of earlier turns", False),
    "Mistral": Family(MISTRAL, "alternate", False),
    "ChatML": Family(_CHATML_TURNS, "", False),
    "Gemma": Family(GEMMA, "takes no system turn", True),
}


def _refuse(text: str) -> str:
    raise jinja2.TemplateError(text)


@cache
def renderer(source: str) -> Render:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["refuse"] = _refuse
    template = environment.from_string(source)

    def render(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        return template.render(messages=list(messages), add_generation_prompt=add_generation_prompt)

    return render


@cache
def probed(name: str) -> Template:
    return probe(renderer(FAMILIES[name].source))


every_family = pytest.mark.parametrize("name", sorted(FAMILIES))
EXTENDED = sorted(name for name, family in FAMILIES.items() if not family.problem)
OTHERS = sorted(set(FAMILIES) - set(EXTENDED))


@every_family
def test_the_probe_says_what_a_template_does(name: str) -> None:
    family, template = FAMILIES[name], probed(name)
    assert template.append_only == (not family.problem), template.problem
    assert family.problem in template.problem
    if template.append_only:
        assert template.strips_text == family.strips
        assert family.default_system in template.default_system
        assert bool(template.default_system) == bool(family.default_system)


SYSTEM = Turn("system", "Be brief.")
ASKED, ANSWERED = Turn("user", "Tides?"), Turn("assistant", "The moon.")
TALK = (SYSTEM, ASKED, ANSWERED, Turn("user", "Why?"), Turn("assistant", "It pulls."))


@every_family
def test_a_prompt_is_what_the_template_renders(name: str) -> None:
    turns = TALK[1:4] if name == "Gemma" else TALK[:4]
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    expected = renderer(FAMILIES[name].source)(messages, True)
    assert probed(name).render(Prompt(turns, Turn("assistant", ""))) == expected


@pytest.mark.parametrize("name", EXTENDED)
def test_an_extended_prompt_begins_with_the_shorter_one(name: str) -> None:
    texts = [
        probed(name).render(Prompt(TALK[:n], Turn("assistant", "")), cue=False)
        for n in range(1, len(TALK) + 1)
    ]
    assert all(after.startswith(before) for before, after in pairwise(texts))


def grade(name: str, *prompts: Sequence[Turn]) -> Finding:
    linter = Linter(len, template=probed(name))
    return [
        linter.grade([Part(f"turn {n}", turn) for n, turn in enumerate(prompt)])
        for prompt in prompts
    ][-1]


@pytest.mark.parametrize("name", EXTENDED)
def test_lint_is_content_with_a_template_that_can_be_extended(name: str) -> None:
    found = grade(name, TALK[:2], TALK[:4])
    assert (found.cause, found.lost) == (Cause.EXTENDED, 0)


GROWTH: dict[str, tuple[Sequence[Turn], Sequence[Turn], str]] = {
    "Llama 2": (TALK[:2], (*TALK[:2], Turn("user", "Now.")), "turn 1"),
    "Mistral": (TALK[:2], TALK[:4], "turn 0"),
    "Gemma": (TALK[1:2], (TALK[1], Turn("user", "Now.")), "turn 0"),
    "Qwen3": (
        (SYSTEM, ASKED, Turn("assistant", "<think>\nhm\n</think>\n\nThe moon.")),
        (SYSTEM, ASKED, Turn("assistant", "<think>\nhm\n</think>\n\nThe moon."), ASKED),
        "turn 2",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_lint_says_where_a_template_rewrites_and_what_that_costs(name: str) -> None:
    before, after, segment = GROWTH[name]
    found = grade(name, before, after)
    assert found.cause is Cause.TEMPLATE
    assert FAMILIES[name].problem in found.detail
    assert found.lost > 0
    assert found.shared + found.lost <= found.tokens
    assert found.segment == segment


@pytest.mark.parametrize("name", ["Llama 2", "Mistral"])
def test_turns_of_one_role_are_joined_where_roles_must_alternate(name: str) -> None:
    turns = (SYSTEM, ASKED, Turn("user", "Now."))
    assert "Tides?\n\nNow." in probed(name).render(Prompt(turns, Turn("assistant", "")))
