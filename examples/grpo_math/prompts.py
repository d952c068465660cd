"""From problems to what the policy reads."""

from transformers import PreTrainedTokenizerBase

from nemo_rl_efficientrollout.errors import UserError

from .problems import Problem

INSTRUCTION = "{problem}\nReason step by step and put the final answer in \\boxed{}."
"""The prompt of a general model; `{problem}` stands for the problem's text."""
BARE = "{problem}"
"""The prompt of the built-in model, which knows arithmetic and nothing else."""


def render(problem: Problem, template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt's text, in the model's chat form if it has one."""
    text = template.replace("{problem}", problem.text)
    if tokenizer.chat_template is None:
        return text
    return str(
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
    )


def encode(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a rendered prompt; a chat template already wrote the special tokens."""
    return tokenizer.encode(text, add_special_tokens=tokenizer.chat_template is None)


def longest_prompt(problems: list[Problem], template: str, tokenizer: PreTrainedTokenizerBase, limit: int) -> int:
    """Tokens of the longest prompt, after checking that the model can read every one.

    Args:
        limit: most prompt tokens that leave room for the response.

    Raises:
        UserError: a prompt that is too long, or text outside the model's vocabulary.
    """
    longest = 0
    for problem in problems:
        prompt = render(problem, template, tokenizer)
        ids = encode(prompt, tokenizer)
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            raise UserError(
                f"{problem.source}: the model's tokenizer cannot read this prompt: {prompt[:80]!r}; "
                "the built-in model knows only its own arithmetic: give another with --model, or change --prompt"
            )
        if len(ids) > limit:
            raise UserError(
                f"{problem.source}: the prompt has {len(ids)} tokens and the model leaves room for {limit}: "
                "shorten it or lower --max-new-tokens"
            )
        longest = max(longest, len(ids))
    return longest
