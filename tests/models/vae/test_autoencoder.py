"""Linear autoencoders: principal components, and the reduced-rank regression of data on what is seen of them."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import ELBO
from pyro_gen.models import Autoencoder
from pyro_gen.models.vae import autoencoder

D, K, SCALE, HIDE = 5, 2, 0.05, 0.3


def rows() -> Tensor:
    """Centred, with different variances along directions that are not the axes."""
    with seeded(3):
        turn = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
        x = torch.randn(60, D, dtype=torch.float64) * torch.tensor([2.0, 1.5, 1.0, 0.6, 0.4]) @ turn
    return x - x.mean(0)


def linear(cls: type[Autoencoder] = Autoencoder, hide: float = 0.0) -> Autoencoder:
    with seeded(0):
        program = cls(D, K, (), hide, likelihood="normal", scale=SCALE).double()
    return program.initialise(rows())


class CutOff(Autoencoder):
    """The planted defect: no gradient from the decoder to the encoder."""

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            pyro.sample("z", dist.Delta(self.encoder(self.hide(self.centre(x))).detach(), event_dim=1))


def trained(cls: type[Autoencoder]) -> Autoencoder:
    """At the minimum of the loss, without noise."""
    program, x = linear(cls), rows()
    optimiser = torch.optim.LBFGS(program.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = ELBO().loss(program, x)
        loss.backward()
        return loss

    optimiser.step(closure)
    return program.eval()


# Nothing is random here but where training starts. Codes cost nothing where the decoder's weights are large, so that
# the minimum is that of the reconstruction alone (Baldi & Hornik, 1989).
@pytest.mark.parametrize(("cls", "holds"), [(Autoencoder, True), (CutOff, False)])
def test_a_linear_one_spans_the_principal_components(cls: type[Autoencoder], holds: bool) -> None:
    x, program = rows(), trained(cls)
    pca = PCA(K).fit(x.numpy())
    least = x.square().mean() - torch.as_tensor(pca.explained_variance_).sum() * (len(x) - 1) / len(x) / D
    error = (pg.reconstruct(program, x) - x).square().mean()
    assert (error.item() == pytest.approx(least.item(), rel=1e-3)) is holds
    span = torch.linalg.qr(program.decoder[0][0].weight.detach()).Q
    cosines = torch.linalg.svdvals(torch.as_tensor(pca.components_) @ span)  # of the angles between the planes
    assert bool(cosines.min() > 0.999) is holds


class Scaled(autoencoder.Hide):
    """The planted defect: what is left is scaled up, as by dropout, and is not in use."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (1 - self.p)


class Forgiving(Autoencoder):
    """The planted defect: what is hidden is not to be reconstructed."""

    def guide(self, x: Tensor) -> None:
        self.hidden = self.hide(self.centre(x)).isnan()
        with self.plate(x):
            pyro.sample("z", dist.Delta(self.encoder(self.centre(x).masked_fill(self.hidden, torch.nan)), event_dim=1))

    def model(self, x: Tensor) -> Tensor:
        return super().model(x.masked_fill(self.hidden, torch.nan))


def at_the_regression(program: Autoencoder, x: Tensor) -> Autoencoder:
    r"""With :math:`f(g(\tilde x)) = U U^T S_{xv} S_{vv}^{-1} v`, v being x with 0 where it is hidden.

    It is the best map of rank K (Izenman, 1975), U being the first eigenvectors of
    :math:`S_{xv} S_{vv}^{-1} S_{vx}`; that something is hidden says nothing of x, so the indicators have weights of 0.
    """
    s = x.T @ x / len(x)
    s_xv = (1 - HIDE) * s
    s_vv = (1 - HIDE) ** 2 * s + HIDE * (1 - HIDE) * s.diagonal().diag()
    whole = torch.linalg.solve(s_vv, s_xv.T).T
    u = torch.linalg.eigh(whole @ s_xv.T).eigenvectors[:, -K:]
    large = 100.0  # of the decoder's weights, so that codes cost nothing
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.zero_()
        program.encoder[1][0].seen.weight.copy_(u.T @ whole / large)
        program.decoder[0][0].weight.copy_(u * large)
    return program


# The gradient there is 0 in expectation: 60 means of 1200 draws for each of 42 numbers, and |t| > 6 for one of them has
# probability 1e-5 for a correct program.
@pytest.mark.parametrize("defect", [None, "scaled", "forgiving"])
def test_a_linear_denoising_one_is_a_regression_of_reduced_rank(defect: str | None) -> None:
    x = rows()
    program = at_the_regression(linear(Forgiving if defect == "forgiving" else Autoencoder, HIDE), x).train()
    if defect == "scaled":
        program.hide = Scaled(HIDE)
    parameters: list[nn.Parameter] = list(program.parameters())
    found = []
    with seeded(4):
        for _ in range(60):
            loss = ELBO().loss(program, x.repeat(20, 1))
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    drawn = torch.stack(found)
    t = drawn.mean(0) / (drawn.std(0) / len(drawn) ** 0.5)
    assert drawn.shape[1] == 42
    assert bool((t.abs() < 6).all()) is (defect is None), t
