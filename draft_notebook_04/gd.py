# %% [parameters]

# gradient descent: data and nets
gd_classes = [0, 1]  # two classes of the data, with the targets -1 and +1
gd_size = 14  # image size in pixels, after average pooling
gd_shallow_n = 64  # training images of the shallow net
gd_shallow_width = [512]  # its hidden units
gd_fcn_n = 128  # training images of the 5-layer fully connected net
gd_fcn_width = [256, 256, 256, 256]  # its hidden units
gd_cnn_n = 64  # training images of the 5-layer CNN
gd_cnn_channels = 48  # channels of each of its convolutions

# step sizes in units of eta_crit at the start
gd_facs = [0.5, 0.95, 1.05, 1.2, 1.5, 1.8, 2.2, 3.0, 4.0]  # shallow net, rising
gd_quad_facs = [0.95, 1.2, 1.5, 1.8, 2.2, 3.0, 4.0]  # its quadratic model, rising
gd_quad_judged = [1.2, 1.5, 1.8]  # where it must catapult
gd_quad_beyond = 2.2  # where it must diverge
lin_facs = [0.95, 1.05, 1.2, 1.5, 1.8, 2.2, 3.0, 4.0]  # its linear model
lin_below = 0.95  # where the linear model must converge; one of `lin_facs`
lin_beyond = 1.05  # where it must diverge; one of `lin_facs` and `gd_facs`
gd_below = 0.5  # where the nets must not catapult; one of `gd_facs`
gd_beyond = 1.5  # where the shallow net must; one of `gd_facs`
gd_fcn_beyond = 2.0  # where the 5-layer net must
gd_steps = 80  # steps of the shallow net and its models
gd_fcn_steps = 50  # steps of the 5-layer nets
gd_drawn = [0.95, 1.2, 1.8, 2.2, 4.0]  # where all three are drawn
gd_every = 2  # steps between measurements of the kernel of the shallow net and its models

# raising the step size again and again
gd_raise = [1.35, 1.35, 1.35]  # eta after a raise / eta_crit then: shallow net, FCN, CNN
gd_raises = 3  # number of raises
gd_hold = 6  # steps from the end of a catapult to the next raise
gd_raise_steps = [150, 120, 100]  # steps of each
gd_rises = [1.2, 1.5, 2.0, 3.0, 5.0]  # other values of the rise that makes a catapult
gd_backs = [1.0, 1.1, 1.2]  # other values of where the loss counts as back
# %% [markdown]
# ## Gradient descent
#
# **Runs.** A shallow net, $f(x) = \frac{1}{\sqrt{md}} \sum_i v_i\,\mathrm{relu}(u_i \cdot x)$, a
# 5-layer fully connected net and a 5-layer CNN, all from $N(0, 1)$ weights in the tangent kernel's
# parameterisation, on two classes of images with the targets ±1. The step size is given in units
# of $\eta_{crit} = 2/\lambda_{max}(K/n)$ of the kernel $K = JJ^T$ at the start; $K$ is computed
# exactly at every step. The *linear* and the *quadratic model* are the Taylor polynomials of the
# shallow net around its start; the quadratic one is the net with its gates frozen, which is exact
# with one hidden layer. The linear model runs in float64, all else in float32. A run
# ends as diverged once its loss is 10,000 times the first one.
# %%
task = {"data": data, "classes": tuple(gd_classes), "size": gd_size, "signed": True}
options = {"width": tuple(gd_shallow_width), "he": False}
shallow = Problem(n=gd_shallow_n, model=wide_fully_connected, options=options, **task)
fcn = replace(shallow, n=gd_fcn_n, options={"width": tuple(gd_fcn_width)})
cnn = replace(shallow, n=gd_cnn_n, model=wide_convolutional)
cnn = replace(cnn, options={"channels": gd_cnn_channels})
nets = {"shallow net": shallow, "5-layer FCN": fcn, "5-layer CNN": cnn}

wanted = {("network", fac): (shallow, gd_steps) for fac in gd_facs}
wanted |= {("frozen", fac): (shallow, gd_steps) for fac in gd_quad_facs}
exact = replace(shallow, dtype="float64")
wanted |= {("linear", fac): (exact, gd_steps) for fac in lin_facs}
wanted |= {("fcn", fac): (fcn, gd_fcn_steps) for fac in (gd_below, gd_fcn_beyond)}
wanted["cnn", gd_below] = cnn, gd_fcn_steps
descent = sweep(
    run_at,
    {
        (kind, fac, seed): dict(
            problem=problem,
            seed=seed,
            fac=fac,
            steps=steps,
            model=kind if kind in ("frozen", "linear") else "network",
            every=1 if kind == "fcn" else gd_every,
        )
        for seed in seeds
        for (kind, fac), (problem, steps) in wanted.items()
    },
    "constant step size",
)
raised = sweep(
    run_raised,
    {
        (name, seed): dict(
            problem=problem,
            seed=seed,
            fac=fac,
            steps=steps,
            first=gd_below,
            hold=gd_hold,
            raises=gd_raises,
        )
        for seed in seeds
        for (name, problem), fac, steps in zip(
            nets.items(), gd_raise, gd_raise_steps, strict=True
        )
    },
    "raised step size",
)
facts = pd.DataFrame({key: summary(table) for key, table in descent.items()}).T
facts.index.names = ["kind", "fac", "seed"]


def fact(kind, fac, name):
    """A number of the runs of a kind, one per seed."""
    return [facts.loc[(kind, fac, seed), name] for seed in seeds]


# %% [markdown]
# ## Three regimes (4.1, 4.2, 4.3)
#
# For a model that is linear in its parameters, with squared error, gradient descent is
# $F_{t+1} - y = (I - \eta K/n)(F_t - y)$: it converges if $\eta < \eta_{crit}$ and diverges beyond.
# A wide net follows it below $\eta_{crit}$. Beyond, its kernel has a way out: to shrink.
# %%
models = {"linear": ORANGE, "frozen": GREEN, "network": BLUE}
titles = {"linear": "linear model", "frozen": "quadratic model", "network": "network"}
fig = plt.figure(figsize=(WIDE, 6.2))
top, bottom = fig.subfigures(2, 1, height_ratios=[1, 1.1])
rows = []
axes = top.subplots(1, len(gd_drawn), sharey=True)
for ax, fac in zip(axes, gd_drawn, strict=True):
    for kind, color in models.items():
        for seed in seeds:
            table = descent[kind, fac, seed][["step", "loss"]]
            rows.append(table.assign(kind=kind, fac=fac, seed=seed))
            height = table.loss / table.loss[0]
            ax.semilogy(table.step, height, color=color, **look(seed, seeds))
            if not height.iloc[-1] < 1e4:
                ax.plot(table.step.iloc[-1], 1e4, "x", color=color, ms=6, clip_on=False)
    ax.set_title(f"$\eta$ = {fac:g} $\eta_{{crit}}$", pad=9)
    ax.set(xlabel="step", xlim=(-1, 40))
    ax.set(ylim=(2e-2, 1e4))
for place, (kind, color) in enumerate(models.items()):
    where = {"transform": axes[0].transAxes, "color": color}
    axes[0].text(0.25, 0.9 - 0.09 * place, titles[kind], **where)
axes[0].set_ylabel("loss / loss at the start")
path_ax, end_ax = bottom.subplots(1, 2)
colors = by_step_size(gd_facs)
for fac in gd_facs:
    table = descent["network", fac, seeds[0]].dropna(subset="kernel_norm")
    ratio = table.kernel_norm / table.kernel_norm.iloc[0]
    path_ax.semilogy(table.step, ratio, color=colors[fac], lw=1.2, label=f"{fac:g}")
    rows.append(table[["step", "kernel_norm"]].assign(kind="network", fac=fac))
path_ax.set(title="the network's kernel", xlabel="step", xlim=(0, 40), ylim=(0.04, 3))
path_ax.set_ylabel("$\lambda_{max}(K_t)\,/\,\lambda_{max}(K_0)$")
path_ax.legend(title="$\eta/\eta_{crit}$", loc="center left", bbox_to_anchor=(1, 0.5))
shown = facts.reset_index()
for place, (kind, color) in enumerate(models.items()):
    of_kind = shown[shown.kind == kind]
    for seed in seeds:
        fine = of_kind[(of_kind.seed == seed) & (of_kind.end < 1)]
        end_ax.semilogy(fine.fac, fine.kernel_ratio, "o-", color=color, ms=4, lw=0.8)
    lost = of_kind[of_kind.end > 1].fac
    end_ax.plot(lost, 0 * lost + 2 * 1.6**place, "x", color=color, ms=6)
for fac, text in ((1, "$\eta_{crit}$"), (2, "$2\,\eta_{crit}$")):
    end_ax.axvline(fac, color=BLACK, ls="--", lw=1)
    end_ax.text(fac, 9, f" {text}", va="bottom")
end_ax.set(title="at the end (×: diverged)", xlabel="$\eta/\eta_{crit}$")
end_ax.set(ylim=(0.06, 15), ylabel="$\lambda_{max}(K)$, end / start")
figures.save(fig, "regimes", pd.concat([*rows, shown]))
# %% [markdown]
# **What to see:** crosses are runs that diverged; bold is the first seed. Just below
# $\eta_{crit}$ the three coincide. Beyond it the linear model is lost, and the other two
# catapult: the loss rises up to 70 times above its start, and is back within some dozen steps.
# They pay with their kernel (below): $\lambda_{max}(K)$ falls, and further than to where $\eta$
# would be critical, to a quarter at 1.5 $\eta_{crit}$. Beyond $2\,\eta_{crit}$ the quadratic
# model diverges, too, as its theory says; the network itself still catapults at 3 and diverges at
# 4. Just beyond $\eta_{crit}$, at 1.05, the kernel gives way by some 10 % with hardly a rise of
# the loss: not every crossing is a spike.
# %%
claims.add(
    "4.1",
    "a linear model's gradient descent converges iff eta < eta_crit = 2/lambda_max(K/n)",
    "003 linear training dynamics",
    [
        Check(
            f"L(end)/L(0) at {lin_beyond:g} eta_crit (diverges)",
            fact("linear", lin_beyond, "end"),
            low=1e3,
            control=fact("network", lin_beyond, "end"),
        ),
        Check(
            f"largest L(t+1)/L(t) at {lin_below:g} eta_crit (monotone)",
            fact("linear", lin_below, "growth"),
            high=1,
            control=fact("linear", lin_beyond, "growth"),
        ),
        Check(
            "largest relative gap to (I - eta K/n)^t (F_0 - y)",
            [
                max(fact("linear", f, "linear_gap")[i] for f in lin_facs)
                for i in range(len(seeds))
            ],
            high=1e-9,
            control=fact("network", lin_beyond, "linear_gap"),
        ),
    ],
    seeds,
)
# %%
near, far = ("network", gd_below), ("network", gd_beyond)
deep, calm = ("fcn", gd_fcn_beyond), ("fcn", gd_below)
checks = [
    Check(
        f"shallow net at {gd_beyond:g} eta_crit: L(peak)/L(0)",
        fact(*far, "peak"),
        low=1.5,
        control=fact(*near, "peak"),
    ),
    Check("shallow net: L(end)/L(0)", fact(*far, "end"), high=0.1),
    Check(
        "shallow net: lambda_max(K), end/start",
        fact(*far, "kernel_ratio"),
        high=0.8,
        control=fact(*near, "kernel_ratio"),
    ),
    Check(
        f"5-layer FCN at {gd_fcn_beyond:g} eta_crit: L(peak)/L(0)",
        fact(*deep, "peak"),
        low=1.5,
        control=fact(*calm, "peak"),
    ),
    Check("5-layer FCN: L(end)/L(0)", fact(*deep, "end"), high=0.1),
    Check(
        "5-layer FCN: lambda_max(K), end/start",
        fact(*deep, "kernel_ratio"),
        high=0.8,
        control=fact(*calm, "kernel_ratio"),
    ),
    Check(
        f"shallow net at {gd_below:g} eta_crit: largest L(t+1)/L(t) (monotone)",
        fact(*near, "growth"),
        high=1,
        control=fact(*far, "growth"),
    ),
    Check(
        f"shallow net at {gd_below:g} eta_crit: largest |lambda_max(K_t)/lambda_max(K_0) - 1|",
        fact(*near, "kernel_drift"),
        high=0.05,
        control=fact(*far, "kernel_drift"),
    ),
]
claims.add(
    "4.2",
    "a wide net: below eta_crit the loss falls monotonically and the kernel hardly moves; "
    "beyond it the loss rises and falls, and lambda_max(K) falls",
    "003 optimization of neural networks",
    checks,
    seeds,
)
# %%
checks = []
for fac in gd_quad_judged:
    at = f"quadratic model at {fac:g} eta_crit"
    bands = {"kernel_ratio": 0.8, "end": 0.1}
    names = {"kernel_ratio": "lambda_max(K), end/start", "end": "L(end)/L(0)"}
    checks.append(Check(f"{at}: L(peak)/L(0)", fact("frozen", fac, "peak"), low=1.5))
    for name, high in bands.items():
        linear = fact("linear", fac, name)
        values = fact("frozen", fac, name)
        checks.append(Check(f"{at}: {names[name]}", values, high=high, control=linear))
checks.append(
    Check(
        f"quadratic model at {gd_quad_beyond:g} eta_crit (diverges): L(end)/L(0)",
        fact("frozen", gd_quad_beyond, "end"),
        low=1e3,
        control=fact("frozen", max(gd_quad_judged), "end"),
    )
)
claims.add(
    "4.3",
    "a quadratic model catapults where the linear one diverges, and diverges beyond "
    "eta_max = 2 eta_crit",
    "003 catapult dynamics; quadratic models for neural network dynamics",
    checks,
    seeds,
)
# %% [markdown]
# ## Where the loss goes in a catapult (4.4)
#
# The loss is split by the top-5 eigenvectors of $K_t$: $PL_5$ is the share of the residual in
# their span, $PL_5^\perp$ the rest, $L = PL_5 + PL_5^\perp$. One 5-layer net, one constant step
# size; the control is the span of 5 random directions.
# %%
fig, (loss_ax, rest_ax, edge_ax) = panels(1, 3, height=3.0)
parts = {"loss": ("$L$", BLACK), "top_loss": ("$PL_5$", ORANGE)}
parts["rest_loss"] = "$PL_5^\perp$", GREEN
rows = []
for seed in seeds:
    style = look(seed, seeds)
    for fac, color in ((gd_fcn_beyond, BLUE), (gd_below, BLACK)):
        table = descent["fcn", fac, seed]
        rows.append(table.assign(fac=fac, seed=seed))
        edge_ax.plot(table.step, table.eta / table.eta_crit, color=color, **style)
    table = descent["fcn", gd_fcn_beyond, seed]
    table = table.assign(random_rest=table.loss - table.random_loss)
    for name, color in (("rest_loss", GREEN), ("random_rest", PINK)):
        part = table[name] / table[name][0]
        rest_ax.semilogy(table.step, part, color=color, **style)
table = descent["fcn", gd_fcn_beyond, seeds[0]]
for name, (label, color) in parts.items():
    width = 3.5 if name == "loss" else 1.4
    loss_ax.semilogy(table.step, table[name], "o-", color=color, lw=width, ms=3, label=label)
loss_ax.set(title=f"loss, $\eta$ = {gd_fcn_beyond:g} $\eta_{{crit}}(K_0)$", ylabel="loss")
loss_ax.set(ylim=(table.loss.min() / 20, None))
loss_ax.legend()
rest_ax.set(title="loss outside of 5 directions", ylabel="part / at the start")
for x, y, color, text in ((0.22, 0.9, PINK, "random"), (0.45, 0.62, GREEN, "top of $K_t$")):
    rest_ax.text(x, y, text, color=color, transform=rest_ax.transAxes)
edge_ax.set(title="step size against the kernel", ylim=(0, None))
edge_ax.set_ylabel("$\eta\,/\,\eta_{crit}(K_t)$")
threshold(edge_ax, 1)
for fac, color, y in ((gd_fcn_beyond, BLUE, 0.9), (gd_below, BLACK, 0.3)):
    text = f"$\eta$ = {fac:g} $\eta_{{crit}}(K_0)$"
    edge_ax.text(0.98, y, text, color=color, transform=edge_ax.transAxes, ha="right")
for ax in (loss_ax, rest_ax, edge_ax):
    ax.set(xlabel="step", xlim=(-0.3, 20), xticks=range(0, 21, 5))
figures.save(fig, "top_eigenspace", pd.concat(rows))
# %% [markdown]
# **What to see:** while the loss goes up by a factor of 6 to 8, $PL_5^\perp$ does not rise: the
# whole spike is in the top eigenspace. Any five directions would not do: outside of five random
# ones the loss is almost as high as before. It ends as the theory says: $\eta$ starts at twice
# $\eta_{crit}(K_t)$, is below it after three steps, and from then on the loss falls. At half of
# $\eta_{crit}$ the loss only falls, but the kernel drifts by 5 to 12 %: five layers of 256 units
# are not wide enough to hold it, so the 5 % band of 4.2 is for the shallow net.
# %%
claims.add(
    "4.4",
    "L = PL_5 + PL_5_perp, and a catapult's rise of the loss is in the top-5 eigenspace of K",
    "003 loss decomposition based on the tangent kernel",
    [
        Check(
            "PL_5's share of the rise from the start to the peak",
            fact(*deep, "top_share"),
            low=0.9,
            control=fact(*deep, "random_share"),
        ),
        Check(
            "largest PL_5_perp(t) / PL_5_perp(0)",
            fact(*deep, "rest_peak"),
            high=1.2,
            control=fact(*deep, "random_rest_peak"),
        ),
        Check("largest |(PL_5 + PL_5_perp)/L - 1|", fact(*deep, "identity"), high=1e-5),
    ],
    seeds,
)
# %% [markdown]
# ## Many catapults (4.5)
#
# After a catapult $\lambda_{max}(K)$ is smaller and $\eta_{crit}$ larger, so the step size can be
# raised beyond it again. Here each net starts at half of $\eta_{crit}$, and `gd_hold` steps after
# the end of a catapult $\eta$ is set to `gd_raise` times the $\eta_{crit}$ of that moment.
#
# **What counts as a catapult:** $\eta > \eta_{crit}(K_t)$ first; then the loss rises above 1.5
# times its lowest value since, and comes back below 1.1 times that value. Those that come with a
# raise of $\eta$ are judged; the nets also make some by themselves, when $\lambda_{max}(K)$ grows
# back to the edge, and they are drawn as well.
# %%
fig, axes = panels(3, len(nets), height=2.0, sharex="col", sharey="row")
rows, found = [], {}
for column, name in zip(axes.T, nets, strict=True):
    loss_ax, eta_ax, norm_ax = column
    for seed in seeds:
        table = raised[name, seed]
        found[name, seed] = catapults(table)
        rows.append(table.assign(net=name, seed=seed))
        style = look(seed, seeds)
        loss_ax.semilogy(table.step, table.loss / table.loss[0], color=BLUE, **style)
        norm = table.kernel_norm / table.kernel_norm[0]
        norm_ax.semilogy(table.step, norm, color=BLUE, **style)
        if seed == seeds[0]:
            loss_ax.semilogy(table.step, table.rest_loss / table.loss[0], color=GREEN, lw=1)
            eta_ax.semilogy(table.step, table.eta_crit / table.eta_crit[0], color=ORANGE)
            eta_ax.step(table.step, table.eta / table.eta_crit[0], color=BLACK, where="post")
            for event in found[name, seed].itertuples():
                for ax in column:
                    color = ORANGE if event.raised else PINK
                    ax.axvspan(event.begin, event.end, color=color, alpha=0.15, lw=0)
    loss_ax.set(title=name)
    norm_ax.set(xlabel="step", xlim=(0, table.step.max()))
axes[0, 0].set_ylabel("loss / at the start")
axes[1, 0].set_ylabel("in units of $\eta_{crit}(K_0)$")
axes[2, 0].set_ylabel("$\lambda_{max}(K_t) / \lambda_{max}(K_0)$")
axes[0, 0].text(0.02, 0.05, "$PL_5^\perp$", color=GREEN, transform=axes[0, 0].transAxes)
axes[1, 0].text(0.03, 0.84, "$\eta$", transform=axes[1, 0].transAxes)
where = {"transform": axes[1, 0].transAxes, "color": ORANGE}
axes[1, 0].text(0.1, 0.84, "$\eta_{crit}(K_t)$", **where)
figures.save(fig, "many_catapults", pd.concat(rows))
# %% [markdown]
# **What to see:** shaded, for the first seed, its catapults, orange where $\eta$ was raised. Each
# raise lifts $\eta$ (black) above $\eta_{crit}$; the loss grows exponentially for ten to twenty
# steps, $\lambda_{max}(K)$ drops, most of it right at the peak, and a larger step size is stable
# afterwards: in the end 8 to 17 times the first one. Green is $PL_5^\perp$ of the first seed: it
# hardly moves in the first catapult and has bumps in the later ones, far below the peaks.
# %%
still = dict(zip(nets, ("network", "fcn", "cnn"), strict=True))  # the same, eta constant
rows = [
    {"net": name, "seed": seed, "kind": kind, "rise": rise, "count": count}
    for name in nets
    for seed in seeds
    for rise in sorted({*gd_rises, RISE})
    for kind, count in {
        **{b: len(catapults(raised[name, seed], rise, b)) for b in {*gd_backs, BACK}},
        "loss alone": len(spikes(raised[name, seed], np.log10(rise), window=1)),
        "constant": len(catapults(descent[still[name], gd_below, seed], rise)),
    }.items()
]
counts = pd.DataFrame(rows)
fig, (count_ax, ratio_ax, share_ax) = panels(1, 3, height=3.0)
hues = dict(zip(nets, (BLUE, GREEN, PINK), strict=True))
for place, (name, color) in enumerate(hues.items()):
    mean = counts[counts.net == name].pivot_table(index="rise", columns="kind", values="count")
    mean.index *= 1.04 ** (place - 1)  # beside each other
    others = mean[[*{*gd_backs, BACK}]]
    count_ax.fill_between(
        mean.index, others.min(axis=1), others.max(axis=1), color=color, alpha=0.2, lw=0
    )
    count_ax.semilogx(mean[BACK], "o-", color=color, ms=4, label=name)
    count_ax.semilogx(mean["loss alone"], "s", mfc="none", color=color, ms=7)
    count_ax.semilogx(mean["constant"], "x", color=color, ms=6)
    for i, seed in enumerate(seeds):
        events = found[name, seed]
        own = ~events.raised.astype(bool)
        x = np.arange(1, len(events) + 1) + 0.25 * (place - 1) + 0.06 * (i - 1)
        for ax, column in ((ratio_ax, "kernel_ratio"), (share_ax, "top_share")):
            ax.plot(x[~own], events[column][~own], "o", color=color, ms=5)
            ax.plot(x[own], events[column][own], "o", mfc="none", color=color, ms=5)
ticks = sorted({*gd_rises, RISE})
count_ax.set_xticks(ticks, [f"{rise:g}" for rise in ticks])
count_ax.minorticks_off()
count_ax.set(title="how many", xlabel="rise of the loss that counts, ×", ylim=(-0.3, 6))
count_ax.set_ylabel("catapults, mean over seeds")
count_ax.legend(loc="upper right")
ratio_ax.set(title="the kernel", ylabel="$\lambda_{max}(K)$, end / beginning", ylim=(0, 1.2))
share_ax.set(title="the top eigenspace", ylabel="$PL_5$'s share of the rise", ylim=(0, 1.3))
for ax in (ratio_ax, share_ax):
    threshold(ax, 1)
    ax.set_xlabel("catapult")
    ax.xaxis.get_major_locator().set_params(integer=True)
figures.save(fig, "each_catapult", pd.concat([counts, pd.concat(found).reset_index()]))
# %% [markdown]
# **What to see:** the count hardly depends on the definition. Left: lines for a loss that is back
# below 1.1 times its lowest, shaded for 1 and 1.2; squares count peaks of the loss alone,
# whatever $\eta_{crit}$ is; crosses at zero are the same nets at a constant half of
# $\eta_{crit}$. Middle and right: each catapult, filled where $\eta$ was raised, hollow where the
# net (only the CNN) made it by itself. On the whole, later ones lower $\lambda_{max}(K)$ less,
# and those without a raise little; only the raised ones are judged. Shares above 1: $PL_5^\perp$
# fell meanwhile.
# %%
checks = []
for name in nets:
    by_raise = [found[name, seed][found[name, seed].raised.astype(bool)] for seed in seeds]
    calm = [len(catapults(descent[still[name], gd_below, seed])) for seed in seeds]
    number = [len(events) for events in by_raise]
    checks.append(Check(f"catapults after a raise, {name}", number, low=3, control=calm))
    largest = [events.kernel_ratio.max() for events in by_raise]
    checks.append(Check(f"largest lambda_max(K), end/begin of one, {name}", largest, high=1))
claims.add(
    "4.5",
    "raising the step size again and again makes one catapult after the other, and each "
    "lowers lambda_max(K)",
    "003 multiple catapults with increasing learning rates",
    checks,
    seeds,
)
