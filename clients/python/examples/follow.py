#!/usr/bin/env python3
"""Says which version is champion, and each time another one is.

usage: python follow.py URL [HOW_MANY]
"""
import sys

from flywheel import follow


def main() -> int:
    left = int(sys.argv[2]) if len(sys.argv) > 2 else None
    for name, card in follow(sys.argv[1], "champion"):
        print(f"{name}: {card['size_bytes']} bytes, sha256 {card['sha256']}", flush=True)
        left = None if left is None else left - 1
        if left == 0:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
