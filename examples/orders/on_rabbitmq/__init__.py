"""The shop on RabbitMQ, with pika."""
