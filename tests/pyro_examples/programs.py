"""Models and guides of the shape of Pyro's SVI examples, in Pyro's statements, on tiny data.

Each says what was edited to give it to :func:`pyro_gen.fit`: at most one line.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta
from torch import Tensor, nn
from torch.distributions import constraints


@dataclass
class Example:
    """One of Pyro's examples.

    Attributes:
        make: Makes model and guide, or a module with both.
        data: ``(x, *context)``.
        edits: What was changed of Pyro's statements.
        elbo: Pyro's objective.
        refusals: By verb that does not apply, what its one line says.
    """

    make: Callable[[], Any]
    data: tuple[Any, ...]
    edits: str = ""
    elbo: Any = field(default_factory=lambda: Trace_ELBO())
    refusals: dict[str, str] = field(default_factory=dict)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(n: int = 12, d: int = 6) -> Tensor:
    return (torch.rand(n, d, generator=generator()) < 0.4).float()


# ----------------------------------------------------------------------------------------------------------------------
# vae/vae.py


class VAE(nn.Module):
    def __init__(self, z_dim: int = 2) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(z_dim, 8), nn.Softplus(), nn.Linear(8, 6), nn.Sigmoid())
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 2 * z_dim))
        self.z_dim = z_dim

    def model(self, x: Tensor) -> Tensor:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], self.z_dim, dtype=x.dtype, device=x.device)
            z_scale = torch.ones(x.shape[0], self.z_dim, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc_img = self.decoder.forward(z)
            pyro.sample("obs", dist.Bernoulli(loc_img, validate_args=False).to_event(1), obs=x.reshape(-1, 6))
            return loc_img

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, log_scale = self.encoder.forward(x.reshape(-1, 6)).chunk(2, -1)
            pyro.sample("latent", dist.Normal(z_loc, log_scale.exp()).to_event(1))


# ----------------------------------------------------------------------------------------------------------------------
# vae/ss_vae_M2.py


class SSVAE(nn.Module):
    def __init__(self, z_dim: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.z_dim, self.output_size = z_dim, classes
        self.encoder_y = nn.Sequential(nn.Linear(6, classes), nn.Softmax(-1))
        self.encoder_z = nn.Linear(6 + classes, 2 * z_dim)
        self.decoder = nn.Sequential(nn.Linear(z_dim + classes, 6), nn.Sigmoid())

    def model(self, xs: Tensor, ys: Tensor | None = None) -> Tensor:
        pyro.module("ss_vae", self)
        batch_size = xs.size(0)
        with pyro.plate("data"):
            prior_loc = torch.zeros(batch_size, self.z_dim)
            zs = pyro.sample("z", dist.Normal(prior_loc, torch.ones_like(prior_loc)).to_event(1))
            alpha_prior = torch.ones(batch_size, self.output_size) / (1.0 * self.output_size)
            ys = pyro.sample("y", dist.OneHotCategorical(alpha_prior), obs=ys)
            loc = self.decoder(concatenated(zs, ys))
            pyro.sample("x", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=xs)
            return loc

    def guide(self, xs: Tensor, ys: Tensor | None = None) -> None:
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(self.encoder_y(xs)))
            loc, log_scale = self.encoder_z(concatenated(xs, ys)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def concatenated(a: Tensor, b: Tensor) -> Tensor:
    """Beside each other, enumerated dimensions broadcast."""
    shape = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([a.expand(*shape, -1), b.expand(*shape, -1)], -1)


def one_hot(n: int, classes: int) -> Tensor:
    return F.one_hot(torch.arange(n) % classes, classes).float()


def ss_vae() -> tuple[Any, Any]:
    module = SSVAE()
    return module.model, config_enumerate(module.guide, "parallel", expand=True)


# ----------------------------------------------------------------------------------------------------------------------
# dmm/dmm.py


class DMM(nn.Module):
    def __init__(self, z_dim: int = 2) -> None:
        super().__init__()
        self.emitter = nn.Sequential(nn.Linear(z_dim, 4), nn.Sigmoid())
        self.trans = nn.Linear(z_dim, 2 * z_dim)
        self.combiner = nn.Linear(z_dim + 3, 2 * z_dim)
        self.rnn = nn.RNN(4, 3, batch_first=True)
        self.z_0 = nn.Parameter(torch.zeros(z_dim))
        self.z_q_0 = nn.Parameter(torch.zeros(z_dim))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, 3))

    def model(
        self,
        mini_batch: Tensor,
        mini_batch_reversed: Tensor,
        mini_batch_mask: Tensor,
        mini_batch_seq_lengths: Tensor,
        annealing_factor: float = 1.0,
    ) -> None:
        T_max = mini_batch.size(1)
        pyro.module("dmm", self)
        z_prev = self.z_0.expand(mini_batch.size(0), self.z_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, T_max + 1)):
                z_loc, z_log_scale = self.trans(z_prev).chunk(2, -1)
                with poutine.scale(scale=annealing_factor):
                    law = dist.Normal(z_loc, z_log_scale.exp()).mask(mini_batch_mask[:, t - 1 : t]).to_event(1)
                    z_t = pyro.sample("z_%d" % t, law)  # noqa: UP031
                pyro.sample(
                    "obs_x_%d" % t,  # noqa: UP031
                    dist.Bernoulli(self.emitter(z_t)).mask(mini_batch_mask[:, t - 1 : t]).to_event(1),
                    obs=mini_batch[:, t - 1, :],
                )
                z_prev = z_t

    def guide(
        self,
        mini_batch: Tensor,
        mini_batch_reversed: Tensor,
        mini_batch_mask: Tensor,
        mini_batch_seq_lengths: Tensor,
        annealing_factor: float = 1.0,
    ) -> None:
        T_max = mini_batch.size(1)
        pyro.module("dmm", self)
        h_0 = self.h_0.expand(1, mini_batch.size(0), self.rnn.hidden_size).contiguous()
        packed = nn.utils.rnn.pack_padded_sequence(mini_batch_reversed, mini_batch_seq_lengths, batch_first=True)
        output, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed, h_0)[0], batch_first=True, total_length=T_max)
        z_prev = self.z_q_0.expand(mini_batch.size(0), self.z_q_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, T_max + 1)):
                loc, log_scale = self.combiner(torch.cat([z_prev, output[:, t - 1, :]], -1)).chunk(2, -1)
                with poutine.scale(scale=annealing_factor):
                    law = dist.Normal(loc, log_scale.exp()).mask(mini_batch_mask[:, t - 1 : t]).to_event(1)
                    z_prev = pyro.sample("z_%d" % t, law)  # noqa: UP031


def sequences() -> tuple[Any, ...]:
    x, lengths = pixels(6 * 3, 4).view(6, 3, 4), torch.tensor([3, 3, 2, 2, 2, 1])
    mask = (torch.arange(3) < lengths[:, None]).float()
    return x * mask[..., None], (x * mask[..., None]).flip(1), mask.bool(), lengths, 0.7


# ----------------------------------------------------------------------------------------------------------------------
# gmm


K = 2


@config_enumerate
def gmm(data: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(K)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", K):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)


def gmm_pair() -> tuple[Any, Any]:
    return gmm, AutoDelta(poutine.block(gmm, expose=["weights", "locs", "scale"]))


# ----------------------------------------------------------------------------------------------------------------------
# lda.py


TOPICS, WORDS = 3, 5


def lda() -> tuple[Any, Any]:
    predictor = nn.Sequential(nn.Linear(WORDS, TOPICS), nn.Softmax(-1))

    def model(data: Tensor) -> Any:
        with pyro.plate("topics", TOPICS):
            topic_weights = pyro.sample("topic_weights", dist.Gamma(1.0 / TOPICS, 1.0))
            topic_words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(WORDS) / WORDS))
        data = data.T
        with pyro.plate("documents", data.shape[1]):
            doc_topics = pyro.sample("doc_topics", dist.Dirichlet(topic_weights))
            with pyro.plate("words", data.shape[0]):
                word_topics = pyro.sample("word_topics", dist.Categorical(doc_topics), infer={"enumerate": "parallel"})
                data = pyro.sample("doc_words", dist.Categorical(topic_words[word_topics]), obs=data)
        return topic_weights, topic_words, data

    def guide(data: Tensor) -> None:
        weights = pyro.param("topic_weights_posterior", lambda: torch.ones(TOPICS), constraint=constraints.positive)
        words = pyro.param(
            "topic_words_posterior", lambda: torch.ones(TOPICS, WORDS), constraint=constraints.greater_than(0.5)
        )
        with pyro.plate("topics", TOPICS):
            pyro.sample("topic_weights", dist.Gamma(weights, 1.0))
            pyro.sample("topic_words", dist.Dirichlet(words))
        pyro.module("predictor", predictor)
        data = data.T.long()
        with pyro.plate("documents", data.shape[1]):
            counts = torch.zeros(WORDS, data.shape[1])
            counts.scatter_add_(0, data, torch.ones(data.shape))
            pyro.sample("doc_topics", dist.Delta(predictor(counts.transpose(0, 1)), event_dim=1))

    return model, guide


def words() -> Tensor:
    return torch.randint(0, WORDS, (8, 4), generator=generator()).float()  # documents in rows


# ----------------------------------------------------------------------------------------------------------------------
# sparse_gamma_def.py


class SparseGammaDEF:
    top, mid, image = 3, 2, 4

    def model(self, x: Tensor) -> None:
        x_size = x.size(0)
        with pyro.plate("w_top_plate", self.top * self.mid):
            w_top = pyro.sample("w_top", dist.Gamma(0.1, 0.3))
        with pyro.plate("w_bottom_plate", self.mid * self.image):
            w_bottom = pyro.sample("w_bottom", dist.Gamma(0.1, 0.3))
        with pyro.plate("data", x_size):
            z_top = pyro.sample("z_top", dist.Gamma(0.1, 0.1).expand([self.top]).to_event(1))
            w_top = w_top.reshape(self.top, self.mid) if w_top.dim() == 1 else w_top.reshape(-1, self.top, self.mid)
            mean_mid = torch.matmul(z_top, w_top)
            z_mid = pyro.sample("z_mid", dist.Gamma(0.1, 0.1 / mean_mid).to_event(1))
            w_bottom = w_bottom.reshape(self.mid, self.image)
            mean_obs = torch.matmul(z_mid, w_bottom)
            pyro.sample("obs", dist.Poisson(mean_obs).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        x_size = x.size(0)

        def sample_zs(name: str, width: int) -> None:
            alpha = pyro.param(f"alpha_{name}", lambda: 0.5 + torch.rand(x_size, width))
            mean = pyro.param(f"mean_{name}", lambda: 0.5 * torch.ones(x_size, width))
            alpha, mean = F.softplus(alpha), F.softplus(mean)
            pyro.sample(name, dist.Gamma(alpha, alpha / mean).to_event(1))

        def sample_ws(name: str, width: int) -> None:
            alpha = pyro.param(f"alpha_{name}", lambda: 0.5 + torch.rand(width))
            mean = pyro.param(f"mean_{name}", lambda: 0.5 * torch.ones(width))
            alpha, mean = F.softplus(alpha), F.softplus(mean)
            pyro.sample(name, dist.Gamma(alpha, alpha / mean))

        with pyro.plate("w_top_plate", self.top * self.mid):
            sample_ws("w_top", self.top * self.mid)
        with pyro.plate("w_bottom_plate", self.mid * self.image):
            sample_ws("w_bottom", self.mid * self.image)
        with pyro.plate("data", x_size):
            sample_zs("z_top", self.top)
            sample_zs("z_mid", self.mid)


def sparse_gamma() -> tuple[Any, Any]:
    example = SparseGammaDEF()
    return example.model, example.guide


def counts() -> Tensor:
    return torch.poisson(2 * torch.ones(9, 4), generator=generator())


# ----------------------------------------------------------------------------------------------------------------------
# tutorial/dirichlet_process_mixture


TRUNCATION = 4


def mix_weights(beta: Tensor) -> Tensor:
    beta1m_cumprod = (1 - beta).cumprod(-1)
    return F.pad(beta, (0, 1), value=1) * F.pad(beta1m_cumprod, (1, 0), value=1)


def dp_model(data: Tensor) -> None:
    with pyro.plate("beta_plate", TRUNCATION - 1):
        beta = pyro.sample("beta", dist.Beta(1, 0.7))
    with pyro.plate("mu_plate", TRUNCATION):
        mu = pyro.sample("mu", dist.MultivariateNormal(torch.zeros(2), 5 * torch.eye(2)))
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Categorical(mix_weights(beta)))
        pyro.sample("obs", dist.MultivariateNormal(mu[z], torch.eye(2)), obs=data)


def dp_guide(data: Tensor) -> None:
    kappa = pyro.param("kappa", lambda: dist.Uniform(0, 2).sample([TRUNCATION - 1]), constraint=constraints.positive)
    tau = pyro.param("tau", lambda: dist.MultivariateNormal(torch.zeros(2), 3 * torch.eye(2)).sample([TRUNCATION]))
    phi = pyro.param(
        "phi", lambda: dist.Dirichlet(torch.ones(TRUNCATION)).sample([len(data)]), constraint=constraints.simplex
    )
    with pyro.plate("beta_plate", TRUNCATION - 1):
        pyro.sample("beta", dist.Beta(torch.ones(TRUNCATION - 1), kappa))
    with pyro.plate("mu_plate", TRUNCATION):
        pyro.sample("mu", dist.MultivariateNormal(tau, torch.eye(2)))
    with pyro.plate("data", len(data)):
        pyro.sample("z", dist.Categorical(phi))


def planar() -> Tensor:
    return torch.randn(10, 2, generator=generator()) + 3 * (torch.arange(10)[:, None] % 2)


# ----------------------------------------------------------------------------------------------------------------------
# cvae/cvae.py


class CVAE(nn.Module):
    def __init__(self, z_dim: int = 2) -> None:
        super().__init__()
        self.baseline_net = nn.Sequential(nn.Linear(6, 6), nn.Sigmoid())
        self.prior_net, self.recognition_net = nn.Linear(12, 2 * z_dim), nn.Linear(12, 2 * z_dim)
        self.generation_net = nn.Sequential(nn.Linear(z_dim, 6), nn.Sigmoid())

    def model(self, ys: Tensor, xs: Tensor) -> Tensor:
        pyro.module("generation_net", self)
        with pyro.plate("data"):
            with torch.no_grad():
                y_hat = self.baseline_net(xs).view(xs.shape)
            loc, log_scale = self.prior_net(torch.cat([xs, y_hat], -1)).chunk(2, -1)
            zs = pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
            loc = self.generation_net(zs)
            mask_loc = loc[(xs == -1)].view(xs.shape[0], -1)
            mask_ys = ys[xs == -1].view(xs.shape[0], -1)
            pyro.sample("y", dist.Bernoulli(mask_loc, validate_args=False).to_event(1), obs=mask_ys)
            return loc

    def guide(self, ys: Tensor, xs: Tensor) -> None:
        with pyro.plate("data"):
            loc, log_scale = self.recognition_net(torch.cat([xs, ys], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def quadrants() -> tuple[Tensor, Tensor]:
    ys = pixels()
    xs = ys.clone()
    xs[:, 3:] = -1
    return ys, xs


# ----------------------------------------------------------------------------------------------------------------------
# tutorial/prodlda


class ProdLDA(nn.Module):
    def __init__(self, topics: int = 2, vocabulary: int = 5) -> None:
        super().__init__()
        self.num_topics = topics
        self.beta = nn.Linear(topics, vocabulary, bias=False)
        self.bn = nn.BatchNorm1d(vocabulary, affine=False)
        self.fc = nn.Linear(vocabulary, 2 * topics)

    def model(self, docs: Tensor) -> None:
        pyro.module("decoder", self.beta)
        with pyro.plate("documents", docs.shape[0]):
            logtheta_loc = docs.new_zeros((docs.shape[0], self.num_topics))
            logtheta_scale = docs.new_ones((docs.shape[0], self.num_topics))
            logtheta = pyro.sample("logtheta", dist.Normal(logtheta_loc, logtheta_scale).to_event(1))
            theta = F.softmax(logtheta, -1)
            count_param = F.softmax(self.bn(self.beta(theta)), dim=-1)
            pyro.sample("obs", dist.Multinomial(20, count_param, validate_args=False), obs=docs)

    def guide(self, docs: Tensor) -> None:
        pyro.module("encoder", self.fc)
        with pyro.plate("documents", docs.shape[0]):
            loc, log_scale = self.fc(docs).chunk(2, -1)
            pyro.sample("logtheta", dist.Normal(loc, log_scale.exp()).to_event(1))


def documents() -> Tensor:
    drawn = torch.randint(0, 5, (8, 20), generator=generator())
    return F.one_hot(drawn, 5).sum(1).float()


# ----------------------------------------------------------------------------------------------------------------------
# tutorial/normalizing_flows_intro


def flow() -> tuple[Any, None]:
    torch.manual_seed(0)
    transform = T.spline_coupling(2, count_bins=4, hidden_dims=[8])

    def model(x: Tensor) -> None:
        pyro.module("transform", transform)
        base = dist.Normal(torch.zeros(2), torch.ones(2))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.TransformedDistribution(base, [transform]), obs=x)

    return model, None


# ----------------------------------------------------------------------------------------------------------------------
# scanvi/scanvi.py


class SCANVI(nn.Module):
    def __init__(self, genes: int = 4, labels: int = 2, latent_dim: int = 2) -> None:
        super().__init__()
        self.num_genes, self.num_labels, self.latent_dim = genes, labels, latent_dim
        self.alpha, self.l_loc, self.l_scale, self.scale_factor = 0.3, 2.0, 0.5, 1.0 / genes
        self.z2_decoder = nn.Linear(latent_dim + labels, 2 * latent_dim)
        self.x_decoder = nn.Linear(latent_dim, 2 * genes)
        self.z2l_encoder = nn.Linear(genes, 2 * latent_dim + 2)
        self.classifier = nn.Linear(latent_dim, labels)
        self.z1_encoder = nn.Linear(latent_dim + labels, 2 * latent_dim)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("scanvi", self)
        theta = pyro.param("inverse_dispersion", 10.0 * x.new_ones(self.num_genes), constraint=constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            z1 = pyro.sample("z1", dist.Normal(0, x.new_ones(self.latent_dim)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(self.num_labels)), obs=y)
            z2_loc, z2_log_scale = self.z2_decoder(concatenated(z1, y)).chunk(2, -1)
            z2 = pyro.sample("z2", dist.Normal(z2_loc, z2_log_scale.exp()).to_event(1))
            l_scale = self.l_scale * x.new_ones(1)
            l = pyro.sample("l", dist.LogNormal(self.l_loc, l_scale).to_event(1))  # noqa: E741
            gate_logits, mu = self.x_decoder(z2).chunk(2, -1)
            mu = F.softmax(mu, -1)
            nb_logits = (l * mu + 1e-4).log() - (theta + 1e-4).log()
            x_dist = dist.ZeroInflatedNegativeBinomial(
                gate_logits=gate_logits, total_count=theta, logits=nb_logits, validate_args=False
            )
            pyro.sample("x", x_dist.to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("scanvi", self)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            z2_loc, z2_log_scale, l_loc, l_log_scale = self.z2l_encoder(torch.log(1 + x)).split(
                [self.latent_dim, self.latent_dim, 1, 1], -1
            )
            pyro.sample("l", dist.LogNormal(l_loc, l_log_scale.exp()).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(z2_loc, z2_log_scale.exp()).to_event(1))
            y_dist = dist.OneHotCategorical(logits=self.classifier(z2))
            if y is None:
                y = pyro.sample("y", y_dist)
            else:
                classification_loss = y_dist.log_prob(y)
                pyro.factor("classification_loss", -self.alpha * classification_loss, has_rsample=False)
            z1_loc, z1_log_scale = self.z1_encoder(concatenated(z2, y)).chunk(2, -1)
            pyro.sample("z1", dist.Normal(z1_loc, z1_log_scale.exp()).to_event(1))


def scanvi() -> tuple[Any, Any]:
    module = SCANVI()
    return module.model, config_enumerate(module.guide, expand=True)


enum = functools.partial(TraceEnum_ELBO, max_plate_nesting=1, strict_enumeration_warning=False)

SHARED = {"log_likelihood": "shared by all data, so the data have no likelihood one by one"}

EXAMPLES = {
    "vae": Example(VAE, (pixels(),)),
    "ss_vae": Example(ss_vae, (pixels(),), elbo=enum()),
    "ss_vae, labelled": Example(ss_vae, (pixels(), one_hot(12, 3)), elbo=enum()),
    "ss_vae, no label": Example(ss_vae, (pixels(), None), elbo=enum()),
    "dmm": Example(DMM, sequences()),
    "gmm": Example(gmm_pair, (torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0]),), elbo=enum(), refusals=SHARED),
    "lda": Example(
        lda, (words(),), "documents in rows: data = data.T", TraceEnum_ELBO(max_plate_nesting=2), refusals=SHARED
    ),
    "sparse_gamma": Example(sparse_gamma, (counts(),), refusals=SHARED),
    "dp_mixture": Example(
        lambda: (dp_model, dp_guide), (planar(),), "fit(objective=ScoreFunctionELBO())", refusals=SHARED
    ),
    "cvae": Example(
        CVAE,
        quadrants(),
        "the images to be completed, ys, come before those given, xs",
        refusals={
            "sample": "returns something else than the data: missing entries are drawn at 'y'",
            "impute": "returns something else than the data: missing entries are drawn at 'y'",
        },
    ),
    "prodlda": Example(
        ProdLDA,
        (documents(),),
        "total_count is a number, not int(docs.sum(-1).max())",
        refusals={"impute": "the law of a part of a Multinomial given the rest is not known"},
    ),
    "flow": Example(flow, (planar(),)),
    "scanvi": Example(scanvi, (counts(), one_hot(9, 2)), elbo=enum()),
    "scanvi, no label": Example(scanvi, (counts(), None), elbo=enum()),
}
