"""`python -m converter.serve FILE`: runs a LiteRT file on arrays from standard input, until that ends.

It sends the shape of the input first. Then it answers each array of images with two: their outputs, and for each the
seconds that the interpreter took.
"""

import argparse
import os
import sys
import time
from typing import IO

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from .messages import receive, send


def main() -> None:
    """Serve, or exit with one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else is printed must not stand among the arrays
    interpreter = Interpreter(arguments.file, num_threads=arguments.threads)
    interpreter.allocate_tensors()
    serve(interpreter, sys.stdin.buffer, answers)


def serve(interpreter: Interpreter, questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the questions end."""
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    send(answers, np.asarray(source["shape"], np.int64))
    while (images := receive(questions)) is not None:
        outputs, seconds = [], []
        for image in images:
            start = time.perf_counter()
            interpreter.set_tensor(source["index"], image[None])
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(target["index"]))
            seconds.append(time.perf_counter() - start)
        send(answers, np.concatenate(outputs))
        send(answers, np.array(seconds))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
