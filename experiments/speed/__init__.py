"""What `make bench` measures: one module per topic, each with `measure(rounds) -> list[Row]`."""
