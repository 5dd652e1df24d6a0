"""A causal transformer writes Python's documentation, letter by letter, after less than a minute of training.

Windows of 64 characters are cut from the standard library; every fifth module is held out. The perplexity of a
held-out character is beside that of smoothed counts of one, two and three characters, on the same windows.
"""

import re

import pyro
import torch
from matplotlib.figure import Figure

import pyro_gen as pg
from pyro_gen.data.docstrings import docstrings
from pyro_gen.pictures import write

LETTERS = " abcdefghijklmnopqrstuvwxyz.,'()=_0?"
SIZE = 64


def windows(texts: list[str], number: int) -> torch.Tensor:
    """The texts in small letters, digits as 0 and what is rare as ?, cut into so many windows, (number, 64)."""
    text = re.sub(r"[^ a-z.,'()=_0]", "?", re.sub(r"\d", "0", re.sub(r"\s+", " ", " ".join(texts).lower())))
    codes = torch.tensor([LETTERS.index(letter) for letter in text])
    at = torch.randint(len(codes) - SIZE, (number,))
    return codes[at.unsqueeze(1) + torch.arange(SIZE)].float()


def counted(train: torch.Tensor, test: torch.Tensor, order: int) -> torch.Tensor:
    """The log-probability of each character by counts of it after the ``order - 1`` before, backing off, (N, 64)."""
    k = len(LETTERS)
    p = torch.full(test.shape, 1 / k)
    for n in range(order):
        a, b = ((x.long().unfold(1, n + 1, 1) * k ** torch.arange(n, -1, -1)).sum(-1) for x in (train, test))
        counts = torch.bincount(a.flatten(), minlength=k ** (n + 1)).view(-1, k)
        seen, total = counts.flatten()[b], counts.sum(1)[b // k]
        p[:, n:] = (seen + 5 * p[:, n:]) / (total + 5)  # Dirichlet prior: five characters from the shorter counts
    return p.log()


def main(number: int = 12_000) -> dict[str, float]:
    pyro.set_rng_seed(0)
    texts = list(docstrings().values())
    train = windows([text for i, text in enumerate(texts) if i % 5], number)
    test = windows(texts[::5], 500)

    program = pg.models.CausalTransformer(SIZE, 64, 2, 4, likelihood="categorical", levels=len(LETTERS))
    pg.fit(program, train, epochs=2, batch_size=32, lr=3e-3, schedule="cosine", progress=False)
    found = pg.log_likelihood(program, test)
    print(f"transformer: {found}")
    numbers = {"perplexity": found.perplexity()}
    lines = {"transformer": program.network(test, 0, None).log_prob(test).detach()}
    for order in (1, 2, 3):
        lines[f"counts of {order}"] = counted(train, test, order)
        numbers[f"perplexity_of_{order}"] = float((-lines[f"counts of {order}"].mean()).exp())
    for name, value in numbers.items():
        print(f"{name} {value:.2f}")

    begun = torch.full((4, SIZE), torch.nan)
    begun[:, :11] = torch.tensor([LETTERS.index(letter) for letter in "return the "]).float()
    for row in pg.impute(program, begun, draws=1)[0].int().tolist():
        print("".join(LETTERS[i] for i in row))

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, line in lines.items():
        axes.plot(range(1, SIZE + 1), (-line.mean(0)).exp(), label=name)
    axes.set(xlabel="position in the window", ylabel="perplexity of held-out characters", yscale="log")
    figure.legend(loc="outside right upper", frameon=False)
    print(f"saved {write(figure, 'outputs/text_characters.png')}")
    return numbers


if __name__ == "__main__":
    main()
