"""The built-in policy: a small Qwen3 that has learned to add, in haste or with care, from examples.

It is trained once (about a minute on two cores), kept on disk and found again by a hash of everything it
depends on.
"""

import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from .arithmetic import LONGEST, TOKEN_PATTERN, VOCABULARY, random_sum

PAD, EOS = VOCABULARY.index("<pad>"), VOCABULARY.index("<eos>")
_IGNORED = -100  # label that cross_entropy leaves out


@dataclass(frozen=True)
class WarmStart:
    """What the built-in policy is and how it is trained."""

    steps: int = 500
    batch: int = 32
    learning_rate: float = 1.5e-3
    haste: float = 0.4
    """Share of the answers to learn from that are guessed instead of worked out."""
    carelessness: float = 0.01
    """Probability that a running total of a worked answer is off by one."""
    seed: int = 0
    hidden: int = 128
    layers: int = 3
    heads: int = 2
    intermediate: int = 384

    @property
    def key(self) -> str:
        """Twelve hex digits that change with anything the trained weights depend on."""
        parts = {**asdict(self), "vocabulary": VOCABULARY, "torch": torch.__version__, "form": 3}
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def warm_started_model(cache: Path, recipe: WarmStart, on_step: Callable[[int, float], None] | None = None) -> Path:
    """Directory of the trained model and its tokenizer below `cache`, trained first if it is not there.

    `on_step(step, loss)` is called after each training step.
    """
    place = cache / f"warm-start-{recipe.key}"
    if place.is_dir():
        return place
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
    try:
        tokenizer = build_tokenizer()
        with one_thread():
            model = _train(recipe, tokenizer, on_step or (lambda step, loss: None))
        model.bfloat16().save_pretrained(unfinished)  # trainer and engine start from equal weights
        tokenizer.save_pretrained(unfinished)
        try:
            os.replace(unfinished, place)
        except OSError:
            if not place.is_dir():  # another run that finished first has put the same model there
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return place


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per digit, per list marker " (i) " and per word; text outside the vocabulary is `<unk>`."""
    words = models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN_PATTERN), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrices this small gain little from a second thread, and lose much when it has to share its core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(
    recipe: WarmStart, tokenizer: PreTrainedTokenizerFast, on_step: Callable[[int, float], None]
) -> Qwen3ForCausalLM:
    """Supervised training; only the tokens of the answers count."""
    rng = random.Random(recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=-(-len(VOCABULARY) // 64) * 64,
                hidden_size=recipe.hidden,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                num_key_value_heads=1,
                head_dim=64,
                intermediate_size=recipe.intermediate,
                max_position_embeddings=1024,
                tie_word_embeddings=True,
                pad_token_id=PAD,
                eos_token_id=EOS,
                bos_token_id=None,
            )
        )
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, betas=(0.9, 0.98))
    warm_up = min(30, recipe.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm_up, max(0.05, 1 - s / recipe.steps))
    )
    for step in range(recipe.steps):
        longest = LONGEST // 3 if step < 0.6 * recipe.steps else LONGEST  # short lists first
        loss = _step(model, _examples(recipe, tokenizer, rng, longest))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        on_step(step + 1, loss)
    return model


def _examples(
    recipe: WarmStart, tokenizer: PreTrainedTokenizerFast, rng: random.Random, longest: int
) -> list[tuple[list[int], list[int]]]:
    """A batch of (prompt ids, answer ids), sorted by length so that little is padded."""
    pairs = []
    for _ in range(recipe.batch):
        terms = random_sum(rng, longest=longest)
        hasty = rng.random() < recipe.haste
        answer = terms.guess() if hasty else terms.solution(rng, recipe.carelessness)
        pairs.append((tokenizer.encode(terms.text), [*tokenizer.encode(answer), EOS]))
    return sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))


def _step(model: Qwen3ForCausalLM, examples: list[tuple[list[int], list[int]]]) -> float:
    """Backward over the batch in four parts of similar length; mean loss per answer token."""
    answer_tokens = sum(len(answer) for _, answer in examples)
    part = -(-len(examples) // 4)
    total = 0.0
    for start in range(0, len(examples), part):
        chunk = examples[start : start + part]
        width = max(len(prompt) + len(answer) for prompt, answer in chunk)
        ids = torch.full((len(chunk), width), PAD)
        labels = torch.full((len(chunk), width), _IGNORED)
        for row, (prompt, answer) in enumerate(chunk):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : end] = torch.tensor(answer)
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)  # [rows * (width - 1), vocabulary]
        loss = torch.nn.functional.cross_entropy(
            logits, labels[:, 1:].flatten(), ignore_index=_IGNORED, reduction="sum"
        )
        (loss / answer_tokens).backward()
        total += loss.item() / answer_tokens
    return total
