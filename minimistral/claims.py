"""What was said of Mistral 7B, and what the sources say. The betting slip of chapter 00 is made of these.

true       stands as it was said
imprecise  points the right way; the number, the scope or the evidence is not what it sounds like
wrong      does not follow from its source

Paper: arXiv:2310.06825. Announcement: "Announcing Mistral 7B", Mistral AI, 27 September 2023.
"""

from dataclasses import dataclass

VERDICTS = ("true", "imprecise", "wrong")


@dataclass(frozen=True)
class Claim:
    """One thing that was said: by whom, which chapter settles it, the verdict (one of VERDICTS) and why."""

    id: str
    text: str
    source: str
    chapter: int  # that settles it
    verdict: str
    because: str


CLAIMS = (
    Claim("parameters", "It has 7.3 billion parameters.", "the announcement", 7, "imprecise",
          "It has 7,241,732,096: 7.2 billion, rounded."),
    Claim("beats-13b", "It beats Llama 2 13B on all benchmarks.", "paper, caption of Table 2", 12, "imprecise",
          "11 of 12: Natural Questions is 28.8 against 29.0. Of the 12 margins 5 are small enough to be chance."),
    Claim("near-code-llama", "On code it comes close to Code-Llama 7B.", "the announcement", 12, "true",
          "HumanEval 30.5 against 31.1: 50 problems of 164 against 51. MBPP is further off, 47.5 against 52.5."),
    Claim("apache", "It is released under the Apache 2.0 licence.", "the announcement", 12, "true",
          "Weights and reference code are. The data and the training recipe were not released."),
    Claim("gqa-window", "The first release (v0.1) has grouped-query attention and a sliding window.", "paper, section 2", 7,
          "true", "8 key heads for 32 query heads, and a window of 4,096. The later v0.2 and v0.3 have no window."),
    Claim("twice-at-16k", "With a window of 4,096 it is twice as fast at 16k tokens.", "paper, section 2", 11, "imprecise",
          "The attention operator can be, by up to 2.286 times; a whole 7B pre-fill cannot (about 1.15 to 1.27)."),
    Claim("span-131k", "Stacked windows give it an attention span of 131K tokens.", "paper, section 2", 9, "imprecise",
          "131,040 positions is how far information could travel back, not how far the model was shown to look."),
    Claim("cache-8x", "At 32k tokens the rolling buffer saves 8 times the cache memory.", "paper, section 2", 5, "true",
          "Exactly: 0.5 GiB instead of 4. The paper also says that quality does not suffer, and shows no experiment."),
    Claim("per-parameter", "It performs 5.4 times better per parameter than Llama 2.", "videos and posts", 12, "wrong",
          "Figure 5 gives sizes of Llama 2 that would score alike; 5.4 is its reasoning panel alone, knowledge is 1.9."),
    Claim("dangerous", "It readily answers dangerous prompts.", "posts; the announcement says it has no moderation", 12,
          "imprecise", "With its guardrail prompt it declined all of 175 unsafe ones; the rate without was never published."),
    Claim("self-reflection", "Asked to moderate itself, it is right 99.4 % of the time it objects.", "paper, section 5", 12,
          "imprecise", "Precision 99.4 % and recall 95.6 % are on the authors' own set, which was not disclosed."),
)  # fmt: skip


def find(id: str) -> Claim:
    """The claim of that id. Raises ValueError naming those there are."""
    for claim in CLAIMS:
        if claim.id == id:
            return claim
    raise ValueError(f"no claim is called {id!r}; there are {', '.join(claim.id for claim in CLAIMS)}.")
