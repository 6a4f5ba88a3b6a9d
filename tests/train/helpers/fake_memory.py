"""A GPU whose memory is a formula of the samples in a micro-batch, for `micro_batch_size: auto`."""

GB = 10**9


class FakeMemory:
    """A step of n samples a micro-batch takes `fixed + n * sample` bytes; above `capacity` it runs out of memory."""

    def __init__(self, fixed=2 * GB, sample=2 * GB, capacity=10 * GB, most=9 * GB, name="Fake GPU"):
        self.fixed, self.sample, self.capacity, self.most, self.name = fixed, sample, capacity, most, name
        self.tried = []

    def limit(self):
        return self.most

    def allocated(self):
        return self.fixed

    def peak(self, step):
        size, _ = step.args
        self.tried.append(size)
        step()
        taken = self.fixed + size * self.sample
        return None if taken > self.capacity else taken

    def release(self):
        pass


def install(monkeypatch, **settings):
    """Every stage of the following runs finds this memory, which is returned."""
    memory = FakeMemory(**settings)
    monkeypatch.setattr("vlm_train.micro_batch.auto.device_memory", lambda *_: memory)
    return memory
