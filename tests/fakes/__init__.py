"""In-process stand-ins for brokers, so that real clients can be tested without one."""
