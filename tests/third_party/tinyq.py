"""A client library that hopspan does not know: boxes in memory, with letters in them."""


class Letter:
    def __init__(self, box, body, headers, attempt=1):
        self.box, self.body, self.headers, self.attempt = box, body, headers, attempt

    def done(self):
        self.box.settled.append(("done", self.body))

    def back(self):
        self.box.settled.append(("back", self.body))
        self.box.letters.append(Letter(self.box, self.body, self.headers, self.attempt + 1))

    def drop(self):
        self.box.settled.append(("drop", self.body))


class Box:
    def __init__(self, name):
        self.name, self.letters, self.settled = name, [], []

    def send(self, body, headers=None):
        self.letters.append(Letter(self, body, headers or {}))

    def listen(self, handler):
        self.handler = handler

    def deliver(self):
        while self.letters:
            self.handler(self.letters.pop(0))
