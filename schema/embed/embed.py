#!/usr/bin/python3
"""Makes what the API tells of itself out of schema/, so that nothing is read at run time:

    embed.py FOLDER     writes FOLDER/openapi.json, FOLDER/catalogue.h and FOLDER/catalogue.c

openapi.json is schema/openapi.yaml in one piece: the event's schema and the samples that it points to are put in, x-answers is left out,
answers are sorted by status. catalogue.c has the same bytes, and the samples in the order of the event types.
"""

import json
import pathlib
import sys

import yaml

SCHEMA = pathlib.Path(__file__).resolve().parents[1]
ENVELOPE = "events/envelope.schema.json"
NOTICE = "/* Made by schema/embed/embed.py from schema/openapi.yaml and schema/events: change those. */\n"
HEADER = NOTICE + """\
#ifndef NRW_CATALOGUE_H
#define NRW_CATALOGUE_H

#include <stddef.h>

#include "event_types.h"

/* The contract, compact JSON in ASCII; the length does not count the NUL behind it. */
extern const char openapi_json[];
extern const size_t openapi_json_len;

/* A whole envelope of each type, compact JSON in ASCII, NUL-terminated. The same order as
 * event_types[]. */
struct event_sample {
    const char *name;
    const char *json;
    size_t len;
};
extern const struct event_sample event_samples[EVENT_TYPES_N];

#endif
"""


class Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice; what comes by a merge (<<) may still be overridden."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.composer.ComposerError(None, None, f"the key {name} is given twice", node.start_mark)
        return node


def compact(document) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def read_json(name: str):
    return json.loads((SCHEMA / name).read_text(encoding="utf-8"))


def envelope() -> dict:
    """The event's schema as a part of the document: without what only a document of its own has, its own $defs where they are now."""
    text = json.dumps(read_json(ENVELOPE)).replace('"#/$defs/', '"#/components/schemas/Envelope/$defs/')
    return {name: value for name, value in json.loads(text).items() if name not in ("$schema", "$id")}


def resolved(node):
    """node with references to files replaced: by the place of the envelope in the document, and samples by their value."""
    if isinstance(node, list):
        return [resolved(item) for item in node]
    if not isinstance(node, dict):
        return node
    if str(node.get("$ref", "")).startswith(ENVELOPE):
        pointer = node["$ref"][len(ENVELOPE):].lstrip("#")
        return {**node, "$ref": "#/components/schemas/Envelope" + pointer}
    if "externalValue" in node:
        return {"value": read_json(node["externalValue"])}
    return {name: dict(sorted(resolved(value).items())) if name == "responses" else resolved(value) for name, value in node.items()}


def bundle() -> dict:
    with open(SCHEMA / "openapi.yaml", encoding="utf-8") as file:
        document = yaml.load(file, Loader)
    del document["x-answers"]
    document = resolved(document)
    document["components"]["schemas"]["Envelope"] = envelope()
    return document


def samples() -> dict[str, bytes]:
    names = [known["const"] for known in read_json(ENVELOPE)["$defs"]["known_event"]["oneOf"]]
    return {name: compact(read_json(f"events/samples/{name}.json")) for name in names}


def c_array(name: str, data: bytes) -> str:
    # A string literal would have to be shorter than 4096 characters.
    lines = ["    " + "".join(f"{byte}," for byte in data[at:at + 32]) for at in range(0, len(data), 32)]
    return f"\n{name}[] = {{\n" + "\n".join(lines) + "\n    0};\n"


def main(folder: pathlib.Path) -> None:
    document = compact(bundle())
    rows = []
    source = NOTICE + '#include "catalogue.h"\n' + c_array("const char openapi_json", document)
    source += "const size_t openapi_json_len = sizeof(openapi_json) - 1;\n"
    for i, (name, data) in enumerate(samples().items()):
        source += c_array(f"static const char sample_{i}", data)
        rows.append(f'    {{"{name}", sample_{i}, sizeof(sample_{i}) - 1}},\n')
    source += "\nconst struct event_sample event_samples[EVENT_TYPES_N] = {\n" + "".join(rows) + "};\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "openapi.json").write_bytes(document + b"\n")
    (folder / "catalogue.h").write_text(HEADER)
    (folder / "catalogue.c").write_text(source)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: embed.py FOLDER")
    main(pathlib.Path(sys.argv[1]))
