"""The Python API in ten lines: python examples/python_api.py DATA IMAGE..."""

import sys

import patchcli
from patchcli.verbs.outputs import Outputs

patchcli.train(sys.argv[1], store="example.zarr", minutes=2)
patchcli.embed("example.zarr")
for record in patchcli.score("example.zarr", sys.argv[2:], outputs=Outputs("example-maps")):
    print(f"{record.image}: {record.score:.4g} at ({record.peak_x}, {record.peak_y}), nearest {record.nearest_image}")
