"""A program of one's own as an oracle: a JSON line in, a JSON line out. Any language will do."""

import json
import sys

for line in sys.stdin:
    values = []
    for salt, acid, sweet in json.loads(line)["candidates"]:
        values.append((salt - 0.8) ** 2 + 3 * (acid - 0.3) ** 2 + (sweet - salt * acid) ** 2)
    print(json.dumps({"values": values}), flush=True)
