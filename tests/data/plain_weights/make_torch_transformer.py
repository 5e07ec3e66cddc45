#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes torch_transformer.safetensors: the weights of a small transformer of PyTorch's own layers, as
its state_dict names them, with token ids and the logits that PyTorch computes for them in float64.
Weights are random, gains and biases as well, and held as float32.

    python3 make_torch_transformer.py

The tests read the file; nothing runs this script.
"""

import json
import struct

import torch

VOCABULARY, HIDDEN, HEADS, INNER, LAYERS, POSITIONS = 11, 16, 2, 32, 2, 6
# The format's name for a type, the struct module's, and bytes.
TYPES = {torch.float32: ("F32", "f", 4), torch.float64: ("F64", "d", 8), torch.int32: ("I32", "i", 4)}


class Model(torch.nn.Module):
    """Embedding, causal pre-norm layers with GELU, a norm and a read-out."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(HIDDEN, HEADS, INNER, dropout=0, activation="gelu",
                                             batch_first=True, norm_first=True)
            for _ in range(LAYERS))
        self.norm = torch.nn.LayerNorm(HIDDEN)
        self.readout = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, ids):
        mask = torch.nn.Transformer.generate_square_subsequent_mask(ids.shape[1]).double()
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, src_mask=mask)
        return self.readout(self.norm(x))


def write(path, tensors):
    """A safetensors file: the arrays of wide types first, those of one type by name."""
    order = sorted(tensors, key=lambda name: (-TYPES[tensors[name].dtype][2], name))
    header, data = {}, b""
    for name in order:
        tensor = tensors[name]
        type_name, code, _ = TYPES[tensor.dtype]
        elements = tensor.flatten().tolist()
        raw = struct.pack(f"<{len(elements)}{code}", *elements)
        header[name] = {"dtype": type_name, "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def main():
    torch.manual_seed(1)
    model = Model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    tensors["ids"] = torch.randint(0, VOCABULARY, (2, POSITIONS)).int()
    with torch.no_grad():
        tensors["logits"] = model.double()(tensors["ids"].long())
    write("torch_transformer.safetensors", tensors)


if __name__ == "__main__":
    main()
