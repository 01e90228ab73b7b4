"""Outlier dimensions in one pass against the rule applied threshold by threshold."""

import pytest
import torch

from evaluation.statistics.outlier_dimensions import Z_THRESHOLD, OutlierScan, z_scores

N_LAYERS, N_TOKENS, WIDTH = 9, 50, 12


def windows(seed=0, count=5):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.5, 4, WIDTH)
    for _ in range(count):
        yield [torch.randn(N_TOKENS, WIDTH, generator=generator) * scale for _ in range(N_LAYERS)]


def scanned(*args, transform=torch.abs, **kwargs):
    scan = OutlierScan()
    for window in windows(*args, **kwargs):
        scan.add_window([transform(x) for x in window])
    return scan


def by_the_rule(threshold, magnitudes=torch.abs):
    """Dimensions, counting layers and tokens one by one."""
    found = []
    for j in range(WIDTH):
        always = True
        for window in windows():
            above = torch.stack([magnitudes(x)[:, j] > threshold for x in window])
            layers, tokens = above.any(dim=1).sum().item(), above.any(dim=0).sum().item()
            always &= layers > 0.25 * N_LAYERS and tokens > 0.06 * N_TOKENS
        if always:
            found.append(j)
    return found


@pytest.mark.parametrize("threshold", [0.5, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0, 20.0])
def test_every_threshold_is_answered_from_one_pass(threshold):
    assert list(scanned().count(threshold).dimensions) == by_the_rule(threshold)


def test_the_thresholds_are_strict_and_exact():
    scan = scanned()
    limits = scan.thresholds()
    j = limits.argmax().item()
    assert scan.count(limits[j].item()).dimensions == ()
    just_below = torch.nextafter(limits[j], torch.tensor(0.0)).item()
    assert scan.count(just_below).dimensions == (j,)
    assert by_the_rule(just_below) == [j] and by_the_rule(limits[j].item()) == []


def test_the_searched_threshold_leaves_one_dimension():
    scan = scanned()
    found = scan.searched_threshold()
    assert len(scan.count(found).dimensions) == 1
    just_below = torch.nextafter(torch.tensor(found), torch.tensor(0.0)).item()
    assert len(scan.count(just_below).dimensions) == 2


def test_z_scores_follow_the_same_rule():
    def plain(x):
        out = torch.empty_like(x)
        for i, token in enumerate(x.abs()):
            out[i] = (token - token.mean()) / ((token - token.mean()) ** 2).mean().sqrt()
        return out

    x = next(windows())[0]
    assert torch.allclose(z_scores(x), plain(x), atol=1e-5)
    scan = scanned(transform=z_scores)
    for threshold in (1.0, 2.0, Z_THRESHOLD):
        assert list(scan.count(threshold).dimensions) == by_the_rule(threshold, plain)


def test_shares_of_tokens_and_layers():
    scan = OutlierScan()
    layers = [torch.zeros(100, 4) for _ in range(8)]
    for layer in layers[:4]:
        layer[:30, 2] = 9.0
    scan.add_window(layers)
    count = scan.count()
    assert (count.dimensions, count.token_share, count.layer_share) == ((2,), 0.3, 0.5)
    assert scan.count(10.0).dimensions == () and scan.count(10.0).token_share == 0


def test_layers_of_other_widths_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        OutlierScan().add_window([torch.zeros(3, 4), torch.zeros(3, 5)])
