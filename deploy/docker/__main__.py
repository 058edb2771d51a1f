"""python -m deploy.docker: write deploy/docker/prometheus.yml."""

from __future__ import annotations

from pathlib import Path

from deploy.docker.scraping import prometheus_text


def main() -> None:
    """Write the file."""
    path = Path(__file__).with_name("prometheus.yml")
    path.write_text(prometheus_text(), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
