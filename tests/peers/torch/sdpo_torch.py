# SPDX-License-Identifier: MIT
"""SDPO as the Python system computes it, on PyTorch and PEFT: the peer that our engine is compared with.

Formulas: generalised Jensen-Shannon divergence on the teacher's top-K support (alpha < 1), sampled reverse KL
(alpha = 1), importance ratio with a cap, k3 term to the base model; one AdamW step per batch.
"""
import torch


def row_logits(model, context, response):
    """Logits of the rows that predict the response tokens: [T, V]."""
    ids = torch.tensor([list(context) + list(response)])
    n = len(context)
    return model(input_ids=ids, use_cache=False).logits[0, n - 1 : n - 1 + len(response)].float()


def chosen(logits, response):
    """Log-probabilities of the response tokens."""
    ids = torch.tensor(response)[:, None]
    return torch.log_softmax(logits, -1).gather(1, ids)[:, 0]


def sample_loss(model, sample, settings, need_base):
    """Loss of one sample and its metrics; the graph hangs on the student pass only."""
    response = sample["response"]
    mask = torch.tensor(sample.get("mask") or [1] * len(response), dtype=torch.float32)
    with torch.no_grad(), model.disable_adapter():
        base = chosen(row_logits(model, sample["prompt"], response), response) if need_base else None
        teacher = torch.log_softmax(row_logits(model, sample["teacher"], response), -1)
        k = min(settings["teacher_top_k"], teacher.shape[1])
        q, support = teacher.topk(k, dim=-1)
    student = torch.log_softmax(row_logits(model, sample["prompt"], response), -1)
    ly = student.gather(1, torch.tensor(response)[:, None])[:, 0]
    old = torch.tensor(sample["logprobs"])
    ratio = torch.exp((ly.detach() - old).clamp(-20, 20)).clamp(max=settings["is_clip"])
    alpha = settings["alpha"]
    if alpha >= 1:
        match = support == torch.tensor(response)[:, None]
        qy = torch.where(match.any(1), torch.where(match, q, torch.zeros_like(q)).sum(1), torch.full_like(ly, -20.0))
        divergence = (ly - qy).detach() * ly
    else:
        ls = torch.log_softmax(student.gather(1, support), -1)
        lt = torch.log_softmax(q, -1)
        lm = torch.logaddexp(lt + torch.log(torch.tensor(alpha)), ls + torch.log(torch.tensor(1 - alpha)))
        divergence = alpha * (lt.exp() * (lt - lm)).sum(-1) + (1 - alpha) * (ls.exp() * (ls - lm)).sum(-1)
    n = mask.sum().clamp(min=1)
    distill = (mask * ratio * divergence).sum() / n
    loss = distill
    metrics = {"distill_loss": distill.item(), "mean_is_ratio": ((mask * ratio).sum() / n).item(),
               "clip_fraction": ((mask * (ratio >= settings["is_clip"])).sum() / n).item()}
    if need_base:
        x = (ly - base).clamp(-20, 20)
        k3 = (mask * (torch.expm1(x) - x)).sum() / n
        metrics["kl_reg"] = k3.item()
        loss = loss + settings["kl_reg_weight"] * k3
    metrics["total_loss"] = loss.item()
    return loss, metrics


def step(model, optimizer, samples, settings):
    """One update on a batch: mean of the samples' losses, clip by global norm, AdamW. Returns metrics and gradients."""
    optimizer.zero_grad(set_to_none=True)
    need_base = settings["kl_reg_weight"] > 0
    total = {}
    for sample in samples:
        loss, metrics = sample_loss(model, sample, settings, need_base)
        (loss / len(samples)).backward()
        for key, value in metrics.items():
            total[key] = total.get(key, 0) + value / len(samples)
    params = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    grads = {n: p.grad.detach().clone() for n, p in params}
    norm = torch.nn.utils.clip_grad_norm_([p for _, p in params], settings["max_grad_norm"] or float("inf"))
    total["grad_norm"] = float(norm)
    optimizer.step()
    return total, grads


def make_optimizer(model, settings):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=settings["learning_rate"],
                             betas=(0.9, 0.999), eps=1e-8, weight_decay=settings.get("weight_decay", 0.01))
