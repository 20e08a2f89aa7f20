"""JAX's key-value store, in one process: hosts are threads."""

import threading

import jax


class Store:
    def __init__(self):
        self.kept: dict[str, str] = {}
        self.changed = threading.Condition()

    def key_value_set(self, key, value):
        with self.changed:
            self.kept[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.kept, milliseconds / 1000):
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: nobody said it")
            return self.kept[key]

    def key_value_dir_get(self, folder):
        with self.changed:
            return [(key, value) for key, value in self.kept.items() if key.startswith(folder)]

    def key_value_delete(self, folder):
        with self.changed:
            self.kept = {key: value for key, value in self.kept.items() if not key.startswith(folder)}
