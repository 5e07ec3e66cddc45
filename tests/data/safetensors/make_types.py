#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes types.safetensors: an array of four elements of each type that the reference implementation
(Python package safetensors 0.8.0) writes; and six_bits.safetensors: the two types of six bits, which
its Python interface reads but does not write. Bytes are 1, 2, 3, and so on.

    python3 make_types.py

The tests read the files; nothing runs this script.
"""

import ctypes
import json
import struct

from safetensors import TensorSpec, deserialize, serialize_file

# The package's name for a type, and bytes of four elements. Of four bits, two elements count as one.
TYPES = {"bool": 4, "uint8": 4, "int8": 4, "float8_e5m2": 4, "float8_e4m3fn": 4,
         "float8_e8m0fnu": 4, "float8_e4m3fnuz": 4, "float8_e5m2fnuz": 4, "int16": 8, "uint16": 8,
         "float16": 8, "bfloat16": 8, "int32": 16, "uint32": 16, "float32": 16, "complex64": 32,
         "float64": 32, "int64": 32, "uint64": 32, "float4_e2m1fn_x2": 2}


def main():
    buffers, tensors = [], {}
    for name, size in TYPES.items():
        codes = [0, 1, 1, 0] if name == "bool" else range(1, size + 1)
        buffer = (ctypes.c_ubyte * size)(*codes)
        buffers.append(buffer)
        shape = [2, 1] if name.endswith("_x2") else [2, 2]
        tensors[name] = TensorSpec(dtype=name, shape=shape, data_ptr=ctypes.addressof(buffer),
                                   data_len=size)
    serialize_file(tensors, "types.safetensors", {"written by": "safetensors"})

    header = {"a": {"dtype": "F6_E3M2", "shape": [2, 2], "data_offsets": [0, 3]},
              "b": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [3, 6]}}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = struct.pack("<Q", len(text)) + text + bytes(range(1, 7))
    read = {name: (each["dtype"], each["shape"], bytes(each["data"]))
            for name, each in deserialize(data)}
    assert read == {"a": ("F6_E3M2", [2, 2], b"\1\2\3"), "b": ("F6_E2M3", [4], b"\4\5\6")}
    with open("six_bits.safetensors", "wb") as file:
        file.write(data)


if __name__ == "__main__":
    main()
