"""How the package enters vLLM, and what happens where it cannot."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from vllm import LLM, SamplingParams
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from nemo_rl_efficientrollout.engine import plugin, twin, versions
from nemo_rl_efficientrollout.engine.twin import twin_config
from nemo_rl_efficientrollout.errors import SettingsError, UnsupportedError
from nemo_rl_efficientrollout.patching import unwrap, wrap
from tests.engines import core_of, generate, prompts, runner_of, set_gate, start, stats, worker_state
from tests.models import VOCABULARY, save_tiny_model, weights_of

pytestmark = pytest.mark.engine
BATCH = prompts(8, VOCABULARY)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llm(model: Path) -> LLM:
    return start(model, {"draft_length": {"max": 5}})


def scheduler_of(llm: LLM) -> Any:
    return core_of(llm).scheduler


def test_stats_is_a_plain_dict_with_the_documented_keys(llm: LLM) -> None:
    generate(llm, BATCH, 16)
    answer = stats(llm)
    assert set(answer) == {
        "policy_version",
        "drafter_version",
        "drafter_problem",
        "drafts",
        "drafted_tokens",
        "accepted_tokens",
        "accepted_by_position",
        "decode_steps",
        "speculating_steps",
        "requantize_seconds",
    }
    assert json.loads(json.dumps(answer)) == answer
    assert answer["decode_steps"] > 0


def test_counters_agree_with_vllms_own(model: Path) -> None:
    llm = start(model, {"drafter": {"format": "int8"}, "gate": {"mode": "random"}})
    counted: dict[str, int] = {"drafts": 0, "drafted": 0, "accepted": 0}
    scheduler = scheduler_of(llm)
    original = scheduler.make_spec_decoding_stats

    def count(stats: Any, num_draft_tokens: int, num_accepted_tokens: int, **rest: Any) -> Any:
        counted["drafts"] += 1
        counted["drafted"] += num_draft_tokens
        counted["accepted"] += num_accepted_tokens
        return original(stats, num_draft_tokens=num_draft_tokens, num_accepted_tokens=num_accepted_tokens, **rest)

    scheduler.make_spec_decoding_stats = count
    generate(llm, BATCH, 64, temperature=1.0)
    answer = stats(llm)
    assert counted == {
        "drafts": answer["drafts"],
        "drafted": answer["drafted_tokens"],
        "accepted": answer["accepted_tokens"],
    }
    assert sum(answer["accepted_by_position"]) == answer["accepted_tokens"]


def test_timeline_covers_every_step_once(llm: LLM) -> None:
    set_gate(llm, mode="random")
    llm.collective_rpc("efficientrollout_timeline")
    before = stats(llm)
    generate(llm, BATCH, 32)
    timeline = llm.collective_rpc("efficientrollout_timeline")[0]
    after = stats(llm)
    assert {len(column) for column in timeline.values()} == {after["decode_steps"] - before["decode_steps"]}
    assert sum(timeline["accepted"]) == after["accepted_tokens"] - before["accepted_tokens"]
    assert timeline["seconds"] == sorted(timeline["seconds"])
    assert not llm.collective_rpc("efficientrollout_timeline")[0]["seconds"]


def test_gate_can_be_changed_while_running_and_bad_gates_are_refused(llm: LLM) -> None:
    set_gate(llm, mode="off")
    before = stats(llm)
    generate(llm, BATCH, 16)
    assert stats(llm)["drafts"] == before["drafts"]
    with pytest.raises(SettingsError, match=r"above draft_length\.max = 5"):
        set_gate(llm, mode="fixed", draft_length=6)
    with pytest.raises(SettingsError, match=r"gate\.mod.*did you mean"):
        set_gate(llm, mod="off")


def test_draft_length_zero_runs_none_of_our_worker_code(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """No drafter call, and the stock code for an engine without speculation: not even its rejection sampler."""

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("ran at γ = 0")

    set_gate(llm, mode="off")
    runner = runner_of(llm)
    monkeypatch.setattr(runner.drafter, "propose", forbidden)
    monkeypatch.setattr(runner.drafter, "prepare_next_token_ids_padded", forbidden)
    monkeypatch.setattr(runner.rejection_sampler, "forward", forbidden)
    monkeypatch.setattr(runner, "_calc_spec_decode_metadata", forbidden)
    assert all(len(tokens) == 16 for tokens in generate(llm, BATCH, 16))
    set_gate(llm, mode="fixed", draft_length=2)
    with pytest.raises(AssertionError, match="ran at γ = 0"):
        generate(llm, BATCH, 16)
    # The engine is not usable after an error inside a step: that is vLLM's contract, so drop what is in flight.
    core_of(llm).abort_requests(list(scheduler_of(llm).requests))


def test_engines_without_our_settings_stay_stock(model: Path) -> None:
    stock = start(model)
    runner = runner_of(stock)
    assert isinstance(runner, CPUModelRunner)
    assert type(runner).__name__ == "CPUModelRunner"
    # Stock vLLM on CPU drops its weights after packing them; keeping them is for our engines only.
    down_proj: Any = dict(runner.model.named_modules())["model.layers.0.mlp.down_proj"]
    assert down_proj.weight.numel() == 0


def test_twin_shares_everything_but_linear_weights(model: Path) -> None:
    llm = start(model, {"drafter": {"format": "int8"}})
    state = worker_state(llm)
    target, drafter = state._target, state.twin.model
    assert drafter.model.embed_tokens is target.model.embed_tokens
    assert drafter.model.norm is target.model.norm
    for ours, theirs in zip(drafter.model.layers, target.model.layers, strict=True):
        assert ours.self_attn.attn is theirs.self_attn.attn  # the KV cache
        assert ours.input_layernorm is theirs.input_layernorm
        assert ours.mlp.gate_up_proj is not theirs.mlp.gate_up_proj
        assert not list(ours.mlp.gate_up_proj.parameters())


def test_lookahead_slots_are_reserved(llm: LLM) -> None:
    assert scheduler_of(llm).num_lookahead_tokens == 5


def test_target_and_twin_have_different_compile_keys(llm: LLM) -> None:
    config = llm.llm_engine.vllm_config
    assert twin_config(config).compute_hash() != config.compute_hash()
    assert twin_config(config).compilation_config is config.compilation_config


def test_compiled_artifacts_are_kept_apart(model: Path) -> None:
    expected = generate(start(model), BATCH, 32)
    settings = {"drafter": {"format": "int8"}, "gate": {"mode": "fixed", "draft_length": 3}}
    llm = start(model, settings, enforce_eager=False)
    assert generate(llm, BATCH, 32) == expected
    state = worker_state(llm)
    target, drafter = (part.model._aot_compilation_path for part in (state._target, state.twin.model))
    assert target
    assert drafter
    assert target != drafter


def test_what_cannot_be_built_means_plain_decoding_and_one_line(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = generate(start(model), BATCH, 32)

    def refuse(*args: Any) -> None:
        raise UnsupportedError("layer 'model.layers.0' is of an unknown kind")

    monkeypatch.setattr(twin, "refuse_unsupported", refuse)
    warnings = []
    monkeypatch.setattr(
        "nemo_rl_efficientrollout.engine.self_speculation.logger.warning", lambda *a: warnings.append(a[0] % a[1:])
    )
    llm = start(model, {"gate": {"mode": "fixed", "draft_length": 3}})
    assert warnings == ["EfficientRollout is off, decoding plainly: layer 'model.layers.0' is of an unknown kind"]
    assert generate(llm, BATCH, 32) == expected
    assert stats(llm)["drafts"] == 0
    with pytest.raises(UnsupportedError, match="strict is set: layer"):
        start(model, {"strict": True})


def test_a_fault_while_drafting_is_raised_not_hidden(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = start(model, {"gate": {"mode": "fixed", "draft_length": 2}})
    runner = runner_of(llm)

    def fail(*args: Any) -> None:
        raise ZeroDivisionError("in the drafter")

    monkeypatch.setattr(runner.drafter, "_forward", fail)
    with pytest.raises(ZeroDivisionError):
        generate(llm, BATCH, 8)


def test_unknown_vllm_versions_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed_vllm", lambda: "0.31.7")
    monkeypatch.setattr(plugin, "_active", False)
    warnings = []
    monkeypatch.setattr(plugin.logger, "warning", lambda *a: warnings.append(a[0] % a[1:]))
    plugin.register()
    assert warnings == ["EfficientRollout is off: vLLM 0.31.7 is not supported: install one of 0.25.1, 0.32.0"]
    with pytest.raises(UnsupportedError, match="not loaded in this process"):
        plugin.require_active()


def test_double_patching_is_refused() -> None:
    class Owner:
        def method(self) -> int:
            return 1

    wrap(Owner, "method", lambda original: lambda self: original(self) + 1)
    assert Owner().method() == 2
    with pytest.raises(RuntimeError, match="patched already"):
        wrap(Owner, "method", lambda original: original)
    unwrap(Owner, "method")
    assert Owner().method() == 1


def test_registering_twice_is_harmless() -> None:
    plugin.register()
    plugin.register()


def test_across_processes(model: Path, tmp_path: Path) -> None:
    """Front end, engine core and worker in three processes: plugin, counters, gate and refit reach their places."""
    new = save_tiny_model(tmp_path / "new", seed=1)
    script = textwrap.dedent(
        f"""
        import json, sys
        from tests.engines import generate, prompts, set_gate, start, stats
        from tests.models import VOCABULARY, weights_of
        from pathlib import Path

        if __name__ == "__main__":
            settings = {{"drafter": {{"format": "int8"}}, "gate": {{"mode": "fixed", "draft_length": 3}}}}
            llm = start(Path({str(model)!r}), settings)
            batch = prompts(8, VOCABULARY)
            generate(llm, batch, 16)
            before = stats(llm)
            answer = llm.collective_rpc("efficientrollout_load_weights", args=(weights_of(Path({str(new)!r})),))[0]
            tokens = generate(llm, batch, 16)
            after = stats(llm)
            set_gate(llm, mode="off")
            generate(llm, batch, 16)
            json.dump([before, answer, after, stats(llm), tokens], open(sys.argv[1], "w"))
        """
    )
    (tmp_path / "across.py").write_text(script)
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(tmp_path / "across.py"), str(tmp_path / "out.json")]
    subprocess.run(command, check=True, timeout=300, env=environment, capture_output=True)
    before, answer, after, off, tokens = json.loads((tmp_path / "out.json").read_text())
    assert before["drafts"] > 0
    assert answer["policy_version"] == answer["drafter_version"] == 1
    assert after["drafts"] > before["drafts"]
    assert off["drafts"] == after["drafts"]
    assert tokens == generate(start(new), BATCH, 16)


def test_seeded_requests_repeat(model: Path) -> None:
    llm = start(model, {"drafter": {"format": "int8"}, "gate": {"mode": "fixed", "draft_length": 3}})
    params = SamplingParams(temperature=1.0, seed=7, max_tokens=32, ignore_eos=True, detokenize=False)
    runs = [[o.outputs[0].token_ids for o in llm.generate(BATCH, params, use_tqdm=False)] for _ in range(2)]  # type: ignore[arg-type]
    assert runs[0] == runs[1]


def test_sampling_filters_apply_to_drafts_too(model: Path) -> None:
    """An unquantized twin that ignored top-p and top-k would have about half of its drafts rejected."""
    llm = start(model, {"drafter": {"format": "bf16"}, "gate": {"mode": "fixed", "draft_length": 3}})
    params = SamplingParams(temperature=1.0, top_p=0.8, top_k=20, max_tokens=64, ignore_eos=True, detokenize=False)
    llm.generate(BATCH, params, use_tqdm=False)  # type: ignore[arg-type]
    answer = stats(llm)
    assert answer["accepted_tokens"] == answer["drafted_tokens"] > 0


def test_refit_needs_known_names(model: Path) -> None:
    llm = start(model, {})
    weights = {"model.layers.0.no_such.weight": next(iter(weights_of(model).values()))}
    with pytest.raises(Exception, match="no_such"):
        llm.collective_rpc("efficientrollout_load_weights", args=(weights,))
