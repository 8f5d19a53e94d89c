"""Jobs: generators that yield ``Progress`` and return a record.  numpy in and out; ``nn`` is never named."""
