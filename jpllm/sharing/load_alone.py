"""A script that loads an exported folder as a stranger would: with transformers, and without this project.

    python -I load_alone.py FOLDER REQUEST.json ANSWER.npy

REQUEST has `auto_class`, `ids` (one row) and `texts`. ANSWER gets the logits, float32 (1, …). The ids of the texts, and
what was imported, are printed as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Load, compute, and say which modules of this project were imported: none."""
    folder, request_file, answer_file = sys.argv[1:]
    import numpy
    import torch
    import transformers

    torch.set_num_threads(1)  # sums come in one order
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    assert tokenizer is not None, "the folder has a tokenizer"
    auto_class = getattr(transformers, request["auto_class"])
    model = auto_class.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    with torch.no_grad():
        logits = model(torch.tensor([request["ids"]])).logits
    numpy.save(answer_file, logits.numpy())
    answer = {
        "ids": [tokenizer(text, verbose=False)["input_ids"] for text in request["texts"]],
        "modules_of_jpllm": [name for name in sys.modules if name.partition(".")[0] == "jpllm"],
        "transformers": transformers.__version__,
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
