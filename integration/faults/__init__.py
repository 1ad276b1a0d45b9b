"""What the fault tests are made of: a consumer to kill, a network to cut, an account of both.

- `proxy`: stands between a consumer and the broker, reads along, and cuts connections on demand.
- `worker`: the consumer, in a process of its own, which writes down every handler run.
- `journal`: what workers write, so that it survives their death, and how it is read.
- `chaos`: publishes, starts workers, kills them, cuts them, until every message is dealt with.
- `verdict`: from all these records, whether hopspan kept its promises.
"""
