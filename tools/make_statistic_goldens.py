#!/usr/bin/env python3
"""Writes tests/golden/statistics.safetensors: the loss of each statistic of docs/statistics.md and its gradient with
respect to the feature map, computed with PyTorch.

Usage and conventions: see tools/goldens.py.

Metadata "cases": JSON list of
    {"name", "statistic", "activation": key, "targets": [{"key", "weight"}], "loss", "gradient": key}
Several targets are blended; the weights sum to 1. Total variation has no targets. The targets of "classes" are logits,
or a distribution with "distribution": true.

Wasserstein-2 is differentiated by autograd through the twelve steps of the square root, so the gradient matches the
computed loss even if the iteration has not converged ("deficient": fewer pixels than channels).
"""

import torch
import torch.nn.functional as F

from goldens import GOLDEN, as_f32, normal, output_path, rng, save_cases


def flat(f):
    return f.reshape(f.shape[0], -1)


def moments(f):
    m = flat(f)
    return m.mean(1), m @ m.T / m.shape[1]


def mean_square(t):
    return (t**2).mean()


def mse(a, b):
    return ((a - b) ** 2).mean()


def square_root(a, steps=12):
    """Computes a matrix square root by the coupled Newton-Schulz iteration of style-transfer-pytorch."""
    size = a.pow(2).sum().sqrt()
    eye = torch.eye(a.shape[0], dtype=a.dtype)
    y, z = a / size, eye
    for _ in range(steps):
        t = (3 * eye - z @ y) / 2
        y, z = y @ t, t @ z
    return y * size.sqrt()


class Feature:
    def summary(self, f):
        return (f,)

    def distance(self, s, t):
        return mse(s[0], t[0])


class Gram:
    def __init__(self, normalization):
        self.normalization = normalization

    def summary(self, f):
        m = flat(f)
        return (m @ m.T / (m.shape[1] if self.normalization == "pixels" else m.numel()),)

    def distance(self, s, t):
        relative = mean_square(t[0]) + 1e-8 if self.normalization == "relative" else 1
        return mse(s[0], t[0]) / relative


class MeanVariance:
    def summary(self, f):
        m = flat(f)
        mu = m.mean(1)
        return mu, (((m - mu[:, None]) ** 2).mean(1) + 1e-5).sqrt()

    def distance(self, s, t):
        return (mse(s[0], t[0]) + mse(s[1], t[1])) / (mean_square(t[0]) + mean_square(t[1]) + 1e-8)


class MeanCovariance:
    def summary(self, f):
        mu, m = moments(f)
        return mu, m - mu[:, None] * mu[None]

    def distance(self, s, t):
        return sum(mse(a, b) / (mean_square(b) + 1e-8) for a, b in zip(s, t))


class Wasserstein:
    summary = staticmethod(moments)

    def distance(self, s, t):
        def covariance(mu, m):
            return m - mu[:, None] * mu[None] + 1e-4 * torch.eye(len(mu), dtype=mu.dtype)

        c, c_t = covariance(*s), covariance(*t)
        root = square_root(c_t)
        return mse(s[0], t[0]) + torch.diagonal(c + c_t - 2 * square_root(root @ c @ root)).mean()


class Classes:
    """Cross entropy. The summary of the picture is its logits, that of a target a distribution."""

    def summary(self, z):
        return (z,)

    def distance(self, s, p):
        p = p[0]
        entropy = -(p[p > 0] * p[p > 0].log()).sum()
        return -(p * F.log_softmax(s[0], 0)).sum() - entropy


class Squared:
    """Total variation of neural-style."""

    def distance(self, x):
        corner = x[:, :-1, :-1]
        return 0.5 * ((x[:, :-1, 1:] - corner) ** 2 + (x[:, 1:, :-1] - corner) ** 2).sum()


class Absolute:
    """Total variation of neural-style-pt."""

    def distance(self, x):
        return (x[:, 1:] - x[:, :-1]).abs().sum() + (x[:, :, 1:] - x[:, :, :-1]).abs().sum()


class Diagonal:
    """Total variation of style-transfer-pytorch."""

    def distance(self, x):
        p = F.pad(x[None], (1, 1, 1, 1), "replicate")[0]
        right = p[:, 1:-1, 2:] - p[:, 1:-1, 1:-1]
        below = p[:, 2:, 1:-1] - p[:, 1:-1, 1:-1]
        down, up = p[:, 1:, 1:] - p[:, :-1, :-1], p[:, 1:, :-1] - p[:, :-1, 1:]
        return 2 * (mean_square(right) / 3 + mean_square(below) / 3 + mean_square(down) / 12 + mean_square(up) / 12)


STATISTICS = {
    "feature": Feature(),
    "gram": Gram("channels and pixels"),
    "gram-pixels": Gram("pixels"),
    "gram-relative": Gram("relative"),
    "mean-variance": MeanVariance(),
    "mean-covariance": MeanCovariance(),
    "wasserstein": Wasserstein(),
}
VARIATIONS = {
    "total-variation": Squared(),
    "total-variation-absolute": Absolute(),
    "total-variation-diagonal": Diagonal(),
}


def features(name, channels, height, width):
    """Returns features with a nonzero mean, correlated channels and different activity, as after a ReLU."""
    plain = rng(name).standard_normal((channels, height * width))
    mixed = plain + 0.5 * plain[::-1] + 0.4
    scale = rng(name + "/scale").uniform(0.3, 2.0, (channels, 1))
    return as_f32((mixed * scale).reshape(channels, height, width))


def main():
    out = output_path(__doc__, GOLDEN / "statistics.safetensors")
    tensors, cases = {}, []

    def case(name, statistic, x, compute, targets=(), **extra):
        x = x.clone().requires_grad_(True)
        loss = compute(x)
        loss.backward()
        tensors[f"{name}/activation"] = x.detach().numpy()
        tensors[f"{name}/gradient"] = x.grad.numpy()
        listed = []
        for index, (weight, target) in enumerate(targets):
            tensors[f"{name}/target_{index}"] = target.numpy()
            listed.append({"key": f"{name}/target_{index}", "weight": weight})
        cases.append({"name": name, "statistic": statistic, "activation": f"{name}/activation", "targets": listed,
                      "loss": loss.item(), "gradient": f"{name}/gradient", **extra})

    shapes = {"wide": (5, 7, 11), "prime": (13, 5, 17), "deficient": (11, 2, 3), "one": (3, 1, 1)}
    for label, shape in shapes.items():
        x = features(f"statistics/{label}/x", *shape)
        for name, statistic in STATISTICS.items():
            target_shape = shape if name == "feature" or label in ("deficient", "one") else (shape[0], 6, 9)
            targets = [features(f"statistics/{label}/{name}/{i}", *target_shape) for i in range(2)]
            for weights in ([1.0], [0.25, 0.75]):
                parts = [tuple(w * s for s in statistic.summary(t)) for w, t in zip(weights, targets)]
                blend = [sum(values) for values in zip(*parts)]
                compute = lambda x, s=statistic, b=blend: s.distance(s.summary(x), b)
                case(f"{name}/{label}/{len(weights)}", name, x, compute, list(zip(weights, targets)))
    for height, width in [(7, 11), (1, 1), (1, 6), (5, 1), (2, 2), (13, 17)]:
        x = as_f32(rng(f"statistics/picture/{height}x{width}").uniform(0, 1, (3, height, width)))
        for name, variation in VARIATIONS.items():
            case(f"{name}/{height}x{width}", name, x, variation.distance)
    classes = Classes()
    for count in (7, 101):
        z = normal(f"statistics/classes/{count}/z", count, scale=3.0)
        logits = [normal(f"statistics/classes/{count}/{i}", count, scale=2.0) for i in range(2)]
        for weights in ([1.0], [0.25, 0.75]):
            blend = sum(w * F.softmax(t, 0) for w, t in zip(weights, logits))
            compute = lambda z, p=blend: classes.distance(classes.summary(z), (p,))
            case(f"classes/{count}/{len(weights)}", "classes", z, compute, list(zip(weights, logits)))
        p = torch.zeros(count, dtype=torch.float64)
        p[2], p[count - 1] = 0.75, 0.25
        case(f"classes/{count}/named", "classes", z, lambda z, p=p: classes.distance(classes.summary(z), (p,)),
             [(1.0, p)], distribution=True)
    save_cases(out, tensors, cases)
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
