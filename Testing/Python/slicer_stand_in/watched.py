"""Observers of MRML that end with whoever observes."""


class Watched:
    """Observers: one for each object and event, and none once their owner called end()."""

    def __init__(self):
        self._tags = {}

    def add(self, thing, event, callback, priority=0.0):
        if (thing, event) not in self._tags:
            self._tags[thing, event] = thing.AddObserver(event, callback, priority)

    def forget(self, thing):
        for key in [key for key in self._tags if key[0] is thing]:
            thing.RemoveObserver(self._tags.pop(key))

    def end(self):
        for thing in {key[0] for key in self._tags}:
            self.forget(thing)
