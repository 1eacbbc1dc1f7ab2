"""Gives each repeat of the Separator layers of its own, at first copies: more to learn with, at the same arithmetic.

    python examples/unshare.py light deeper.safetensors
    tisdiss train speech/train run --recipe deeper.toml --init deeper.safetensors

R repeats of L layers become one repeat of R x L layers, whose voices are the same until they are trained; the
recipe's [network] says `separator_layers = R x L` and `separator_repeats = 1`.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from tisdiss_cli.model.weights import find_weights, load_weights, read_info, save_weights

LAYERS = "separator.layers."


def main() -> None:
    """Writes the weight file; its facts stay true, as the voices are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    path = find_weights(arguments.weights)
    network, info = load_weights(path), read_info(path).info
    config, layers = network.config, network.config.separator_layers
    tensors = {}
    for name, tensor in network.state_dict().items():
        if not name.startswith(LAYERS):
            tensors[name] = tensor
            continue
        number, rest = name.removeprefix(LAYERS).split(".", 1)
        for repeat in range(config.separator_repeats):
            tensors[f"{LAYERS}{int(number) + repeat * layers}.{rest}"] = tensor.clone()
    deeper = replace(config, separator_layers=layers * config.separator_repeats, separator_repeats=1)
    save_weights(arguments.out, deeper, tensors, info=info)


if __name__ == "__main__":
    main()
