"""Records what the official programs answer, for machines that have no Java: ``python tests/scores/record.py``.

Needs pycocoevalcap (with its jars) and Java. Writes ``recorded/tokens.json`` (the PTB tokens of each line of
``recorded/captions.txt``) and ``recorded/scores.json`` (made-up captions with what pycocoevalcap scores each of them).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pycocoevalcap
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, PTBTokenizer

HERE = Path(__file__).parent / "recorded"
SUBJECTS = [
    "a man",
    "two dogs",
    "the woman's cat",
    "a group of people",
    "An old bus",
    "U.S. soldiers",
    "a black-and-white cow",
]
VERBS = ["riding", "standing next to", "sitting on", "playing with", "isn't near", "holding (up)"]
OBJECTS = [
    "a red bench",
    "the street.",
    "a frisbee, in a park",
    "2 1/2 pizzas",
    'a "stop" sign',
    "the beach!",
    "St. Mary's church",
]


def tokens() -> None:
    folder = Path(pycocoevalcap.__path__[0], "tokenizer")
    program = ["java", "-cp", "stanford-corenlp-3.4.1.jar", "edu.stanford.nlp.process.PTBTokenizer"]
    command = [*program, "-preserveLines", "-lowerCase", str((HERE / "captions.txt").resolve())]
    printed = subprocess.run(
        command, cwd=folder, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    lines = printed.stdout.decode().split("\n")[:-1]
    kept = [[word for word in line.rstrip().split(" ") if word and word not in PUNCTUATIONS] for line in lines]
    (HERE / "tokens.json").write_text("[\n" + ",\n".join(json.dumps(words) for words in kept) + "\n]\n")


def captions(images: int = 60) -> tuple[dict[str, str], dict[str, list[str]]]:
    draw = random.Random(5)

    def one() -> str:
        return f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(OBJECTS)}"

    said = {str(key): one() for key in range(images)}
    said |= {"7": "", "11": ".", "13": "zebra quixotic", "17": " ".join(one() for _ in range(5))}
    given = {key: [one() for _ in range(draw.randint(1, 6))] for key in said}
    given["3"] = [said["3"]]
    return said, given


def scores() -> None:
    said, given = captions()
    res = PTBTokenizer().tokenize({key: [{"caption": text}] for key, text in said.items()})
    gts = PTBTokenizer().tokenize({key: [{"caption": text} for text in texts] for key, texts in given.items()})
    bleu, bleus = Bleu(4).compute_score(gts, res, verbose=0)
    found = {f"BLEU-{n + 1}": (bleu[n], list(bleus[n])) for n in range(4)}
    for name, scorer in (("ROUGE-L", Rouge()), ("CIDEr", Cider()), ("METEOR", Meteor())):
        total, each = scorer.compute_score(gts, res)
        found[name] = (float(total), [float(value) for value in each])
    out = {"candidates": said, "references": given, "scores": found}
    (HERE / "scores.json").write_text(json.dumps(out, indent=0) + "\n")


if __name__ == "__main__":
    tokens()
    scores()
