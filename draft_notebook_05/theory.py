# %% [parameters]
# modes across the valley
modes_etas = [0.05, 0.5]  # step sizes
modes_mus = [0.01, 0.02, 0.03]  # mu = 1 - beta
modes_hs = [1.0, 4.0]  # curvatures
modes_eps = 0.1  # standard deviation of the label noise
modes_chains = 12000  # runs of each cell
modes_slow = 0.01  # eta and h of the overdamped control, at the largest mu

# the valley that can be solved
valley_eps = 0.05  # standard deviation of the label noise
valley_etas = [0.0003, 0.03, 5]  # first and last step size, how many
valley_ema_etas = [0.7, 2.5, 5]  # the same with momentum as an average
valley_mus = [8e-5, 0.04, 33]  # first and last mu = 1 - beta, how many; for every eta
valley_c = 8  # length of the window in units of the shortest time

# two weights
uv_eps = 0.02  # standard deviation of the label noise
uv_etas = [0.0002, 0.02, 5]  # first and last step size, how many
uv_ema_etas = [1.0, 4.0, 5]  # the same with momentum as an average
uv_mus = [4.5e-5, 0.014, 33]  # first and last mu = 1 - beta, how many; for every eta
uv_chains = 192  # runs of each cell
uv_c = 6  # length of the window in units of the shortest time
uv_level = 6  # estimator (C): mu T at the crossover
uv_best = 0.82  # mu* / (eps eta)^(2/3) on seeds 0 to 2; only places the runs below

# drift along the valley of two weights
drift_eta = 0.003  # step size
drift_eps = 0.1  # standard deviation of the label noise
drift_factors = [6, 12]  # mu in units of the optimum's
drift_near = [0.5, 1, 2]  # the same where the law is not expected; the first is the control
drift_chains = 1000  # runs that are averaged

# powers: mu = C eta^gamma
power_gammas = [1 / 3, 1 / 2, 0.6, 2 / 3, 0.75, 0.85, 1.0]  # exponents
power_start = [3, 1, 1 / 3]  # mu / mu* at the largest eta: gamma below, at, above 2/3
power_uv_start = [3, 1, 1 / 2]  # the same for two weights
power_eps = 0.3  # label noise of the solvable valley
power_etas = [0.0003, 0.01, 4]  # its first and last step size, how many
power_uv_etas = [0.002, 0.02, 3]  # the same for two weights, at uv_eps
power_uv_chains = 64  # runs of each cell there

# trajectories
path_eta = 0.01  # step size
path_eps = 0.1  # standard deviation of the label noise
path_factors = [1 / 5, 1, 5]  # mu in units of the optimum's
path_steps = 1200  # steps

# %% [markdown]
# ## Two time scales that meet: the derivation (5.1 to 5.5)
#
# Write $\mu = 1-\beta$. A network fits its labels exactly on a manifold $\Gamma$ of weights. Its
# residuals are $f_i(w) - y_i$, the loss is $\frac12\sum_i (f_i - y_i)^2$, and at every step each
# label is redrawn: $y_i + \epsilon\xi_i$. On $\Gamma$ the gradient is then pure noise,
# $-\epsilon J^\top \xi$ with $J = \partial f/\partial w$, and its covariance
# $\epsilon^2 J^\top J = \epsilon^2 H$ is proportional to the Hessian. Heavy ball in the paper's
# form, *without dampening*:
#
# $$\pi_{k+1} = \beta\pi_k - \nabla L(w_k) + \text{noise}, \qquad w_{k+1} = w_k + \eta\,\pi_{k+1}.$$
#
# **1. Across the valley: $\tau_1$.** Along an eigenvector of $H$ with eigenvalue $h$ the pair
# $(z, \pi_z)$ is multiplied at every step by a matrix of determinant $\beta$. Its roots are complex
# if $(1-\sqrt\beta)^2 < \eta h < (1+\sqrt\beta)^2$ (about: $\mu^2 < 4\eta h$), and then both have
# modulus $\sqrt\beta$: second moments relax as $\beta^k$, whatever $h$ and $\eta$ are,
#
# $$\tau_1 = -1/\log\beta \approx 1/\mu.$$
#
# **2. How wide it is.** Second moments $E z^2, E z\pi_z, E\pi_z^2$ that do not change any more obey
# three linear equations; their solution is
#
# $$E z^2 = \frac{\eta\epsilon^2(1+\beta)}{\mu\,(2(1+\beta) - \eta h)} \approx
# \frac{\epsilon^2\eta}{2\mu}\,\frac{1}{1-\eta h/4}.$$
#
# To first order it does not depend on $h$: the covariance across is
# $\frac{\epsilon^2\eta}{2\mu} P$, $P$ the projector on the directions across $\Gamma$.
#
# **3. Along the valley: $\tau_2$.** Along $\Gamma$ the gradient vanishes but for the third
# derivatives: $E\,\partial_L L = \frac12 \partial_L \mathrm{tr}(H\,\mathrm{Cov}) =
# \frac{\epsilon^2\eta}{4\mu}\,\partial_L\,\mathrm{tr} H$. Momentum turns a steady force into
# $\eta/\mu$ times as large a step,
#
# $$\frac{dw_L}{dk} = -\frac{\epsilon^2\eta^2}{4\mu^2}\,\nabla_\Gamma\,\mathrm{tr} H
# \qquad\Rightarrow\qquad \tau_2 \propto \frac{\mu^2}{(\epsilon\eta)^2}:$$
#
# label noise walks downhill in the trace of the Hessian, to the flattest point of $\Gamma$.
#
# **4. Where they meet.** Let $\mu = C\eta^\gamma$. Then $\tau_1 \propto \eta^{-\gamma}$ and
# $\tau_2\propto\eta^{-(2-2\gamma)}$. Whichever is longer sets the time to converge,
#
# $$T \propto \eta^{-\alpha}, \qquad \alpha(\gamma) = \max(2-2\gamma,\ \gamma),$$
#
# which is least where both are equal: $\gamma = 2/3$, $\alpha = 2/3$, against $\eta^{-2}$ without
# momentum. At fixed $\epsilon$ this is $1-\beta \propto \eta^{2/3}$. $\square$
#
# **5. A valley with nothing left open.** Take $n\to\infty$ residuals $f_i = \sqrt{h(x)}\,z_i$ with
# $h = h_0 + a x^2$: a valley along $x$, flattest at $x=0$. $|z|^2$ averages itself, and the second
# moments of $z$, with $x$ and its momentum, form a closed map of five numbers
# (`common/noisy_valley.py`). Near $x=0$ the variance across stays at its stationary value and
#
# $$x'' + \mu x' + \frac{K}{\mu}\,x = 0, \qquad K = \tfrac12 a\,\epsilon^2\eta^2,
# \qquad \tau_2 = \frac{\mu^2}{K}:$$
#
# a damped oscillator. More momentum (smaller $\mu$) makes the drift stronger *and* the friction
# weaker. What we measure is the *integral relaxation time* $T = \sum_k x_k^2/x_0^2$, and for the
# oscillator it is exactly the mean of the two time scales:
#
# $$T = \tfrac12(\tau_1 + \tau_2) = \frac1{2\mu} + \frac{\mu^2}{2K}, \qquad
# \mu^\star = \left(\tfrac14 a\,\epsilon^2\eta^2\right)^{1/3}, \qquad T^\star =
# \frac{3}{4\mu^\star}.$$
#
# (The late decay alone is fastest at critical damping, $\mu = 2\mu^\star$: another constant, the
# same exponent.) Far from $x = 0$ all terms still scale alike with
# $\mu \to \mu/(\epsilon\eta)^{2/3}$, so that in any valley
# $T\,(\epsilon\eta)^{2/3} = F(\mu/(\epsilon\eta)^{2/3})$ for small $\epsilon$ and $\eta$:
# curves of all step sizes fall onto one.
#
# **Estimators**, named before the runs (`common/scaling.py` has their formulas and known biases).
# $T$ is measured in a window of a fixed number of $T^\star$ found from each curve itself. The
# *primary* one in this part is (B), the pair of exponents $p, q$ with which the curves
# $\log T = -q\log\eta + F(\log\mu - p\log\eta)$ fall onto one; it uses whole curves and knows
# nothing of the theory. Beside it (A), the slope of the argmin, and (C), the slope of the $\mu$
# at which $\mu T$ passes a level. Intervals are 95 % bootstrap intervals over noise seeds.

# %%
def grid(first, last, number):
    """Points at equal ratios."""
    return np.geomspace(first, last, number).round(12).tolist()


def powers(best, etas, starts):
    """The curves mu = C eta^gamma [G, E] through multiples of best at the largest eta."""
    gamma = np.array(power_gammas)[:, None]
    start = np.choose(1 + np.sign(np.round(gamma - 2 / 3, 6)).astype(int), starts)
    return start * best * (np.array(etas) / max(etas)) ** gamma


cells = np.array(np.meshgrid(modes_mus, modes_etas, modes_hs)).reshape(3, -1).tolist()
plan = dict(zip(("mus", "etas", "hs"), cells, strict=True)) | {"eps": modes_eps, "span": 6}
slow = {"mus": [max(modes_mus)], "etas": [modes_slow], "hs": [modes_slow]}
kinds = {"heavy ball": {}, "EMA": {"ema": True}, "overdamped": slow | {"span": 24}}
modes = sweep(
    run_transverse,
    {
        (kind, seed): plan | more | {"seed": seed, "chains": modes_chains}
        for kind, more in kinds.items()
        for seed in seeds
    },
    "across the valley",
)

valley, steep = NoisyValley(eps=valley_eps), NoisyValley(eps=power_eps)
etas, ema_etas, mus = grid(*valley_etas), grid(*valley_ema_etas), grid(*valley_mus)
lines = grid(*power_etas)
line_mus = powers(steep.optimum(lines[-1])[0], lines, power_start)
plan = {"mus": mus, "c": valley_c, "every": 5}
solved = sweep(
    run_valley,
    {
        "heavy ball": plan | {"valley": valley, "etas": etas},
        "from rest": plan | {"valley": valley, "etas": etas, "still": True},
        "EMA": plan | {"valley": valley, "etas": ema_etas, "ema": True},
        "powers": plan
        | {"valley": steep, "every": 20, "etas": lines * len(line_mus), "mus": line_mus.reshape(-1, 1)},
    },
    "solvable valley",
)

two_etas, two_ema, two_mus = grid(*uv_etas), grid(*uv_ema_etas), grid(*uv_mus)
plan = {"eps": uv_eps, "chains": uv_chains, "c": uv_c, "every": 10, "mus": two_mus}
two = sweep(
    run_uv,
    {
        (kind, seed): plan | {"seed": seed, "etas": e, "ema": kind == "EMA"}
        for kind, e in (("heavy ball", two_etas), ("EMA", two_ema))
        for seed in seeds
    },
    "two weights",
)

best = uv_best * (uv_eps * power_uv_etas[1]) ** (2 / 3)
two_lines = grid(*power_uv_etas)
two_line_mus = powers(best, two_lines, power_uv_start)
plan |= {"etas": two_lines * len(two_line_mus), "mus": two_line_mus.reshape(-1, 1)}
plan |= {"every": 20, "most": 1_000_000, "chains": power_uv_chains}
two |= sweep(run_uv, {("powers", s): plan | {"seed": s} for s in seeds}, "powers of eta")

drift_best = uv_best * (drift_eps * drift_eta) ** (2 / 3)
drift_plans = {}
for factor in (*drift_near, *drift_factors):
    tau = max((factor * drift_best / (drift_eps * drift_eta)) ** 2, 1 / (factor * drift_best))
    length = {"steps": int(1.5 * tau), "every": int(1.5 * tau / 40)}
    plan = {"eta": drift_eta, "eps": drift_eps, "chains": drift_chains} | length
    for seed in seeds:
        drift_plans[factor, seed] = plan | {"mus": [factor * drift_best], "seed": seed}
best = uv_best * (path_eps * path_eta) ** (2 / 3)
path_mus = [factor * best for factor in path_factors]
plan = {"eta": path_eta, "eps": path_eps, "mus": path_mus, "steps": path_steps}
drift_plans |= {("path", seed): plan | {"seed": seed, "every": 2} for seed in seeds}
paths = sweep(run_uv_paths, drift_plans, "drift")

# %%
shared = {**modes, **solved, **two, **paths}
seconds = sum(table.cpu_seconds.max() for table in shared.values())
print(f"{len(shared)} calls, CPU seconds when they were computed: {seconds:.0f}")
rate = speed()
print(f"two weights: {rate['batched']:.1e} run-steps a second as one batch, {rate['loop']:.1e}")
print(f"in a loop of torch.optim.SGD with autograd: {rate['ratio']:.0f} times as many")

# %% [markdown]
# The last two lines are measured anew at every run, and move with what else the machine does.
#
# ## Relaxation, variance and drift (5.1, 5.2, 5.3)
#
# Heavy-ball chains across the valley, from rest, for all pairs of step sizes, momenta and
# curvatures; then the drift of the imbalance $D = u^2 - v^2$ of two weights with
# $L = \frac12(uv - 1 - \epsilon\xi)^2$. On the hyperbola $uv = 1$, $\mathrm{tr}H = u^2 + v^2$, and
# step 3 gives $D \propto \exp(-(\epsilon\eta/\mu)^2 k)$ anywhere on it, down to $u = v$.

# %%
fits = {key: relaxation(table) for key, table in modes.items()}
for fit in fits.values():
    fit["rate / mu"] = fit.rate / fit.mu
    fit["V / theory"] = fit.V / transverse_variance(fit.eta, fit.mu, fit.h, modes_eps)
drifts = {}
for (factor, seed), table in paths.items():
    if factor != "path":
        D = (table.u**2 - table.v**2).groupby(table.step).mean().abs()
        drifts[factor, seed] = -np.polyfit(D.index, np.log(D), 1)[0]
drift_theory = {f: (drift_eps * drift_eta / (f * drift_best)) ** 2 for f, _ in drifts}

fig, axes = panels(1, 3, height=3.2)
first = modes["heavy ball", seeds[0]]
rest = 1 - first.variance / transverse_variance(first.eta, first.mu, first.h, modes_eps)
rest = first.assign(left=rest, time=first.step * first.mu)
x, h = np.linspace(0, 4, 200), np.geomspace(0.03, 3, 200)
for mu, color in by_step_size(modes_mus).items():
    for _, cell in rest[(rest.mu == mu) & (rest.time < 4)].groupby("cell"):
        axes[0].plot(cell.time, cell.left, color=color, lw=0.8, alpha=0.7)
    axes[0].plot([], [], color=color, label=f"$\\mu$ = {mu:g}")
    axes[1].loglog(h, transverse_variance(h, mu, 1.0, 1.0) / h, color=color, lw=1)
    for kind, mark in (("heavy ball", "o"), ("EMA", "x")):
        cells = pd.concat([fits[kind, seed] for seed in seeds]).query("mu == @mu")
        width = cells.V / (modes_eps**2 * cells.eta)
        axes[1].loglog(cells.eta * cells.h, width, mark, color=color, ms=5)
axes[0].plot(x, np.exp(-x), "--", color=BLACK, label="$e^{-\\mu k}$")
axes[1].axhline(0.5, ls="--", color=BLACK, lw=1)
axes[1].text(0.03, 0.6, "EMA momentum, any $\\mu$", va="bottom", fontsize="small")
x = np.geomspace(0.35, 17, 200)
theory = (drift_eps * drift_eta / (x * drift_best)) ** 2
axes[2].loglog(x, theory, color=BLACK, lw=1, label="$(\\epsilon\\eta/\\mu)^2$")
for (factor, _), slope in drifts.items():
    axes[2].loglog(factor, slope, "o", color=RED if factor in drift_factors else SKY, ms=5)
axes[0].set(title="5.1 relaxation", xlabel="$\\mu k$", ylabel="1 - variance / stationary")
axes[1].set(title="5.2 stationary variance", xlabel="$\\eta h$", ylabel="$Ez^2/\\epsilon^2\\eta$")
axes[2].set(title="5.3 drift", xlabel="$\\mu / \\mu^\\star$", ylabel="rate of $D$ per step")
axes[0].legend()
axes[2].plot([], [], "o", color=RED, label="judged")
axes[2].plot([], [], "o", color=SKY, label="$\\mu \\leq 2\\mu^\\star$")
axes[2].legend(loc="lower left")
numbers = pd.concat(fits, names=["kind", "seed"]).reset_index()
moved = pd.Series(drifts).rename_axis(["factor", "seed"]).reset_index(name="drift")
shown = [rest.assign(kind="relaxation"), numbers, moved]
figures.save(fig, "time_scales", pd.concat(shown))

# %% [markdown]
# **What to see:** left, twelve pairs of step size and curvature in three colours of momentum: all
# relax as $e^{-\mu k}$ (first seed). Middle, dots of all seeds on the exact formula: the smaller
# $\mu$ the wider, and the curvature matters only where $\eta h$ nears its limit of 4. With EMA
# momentum (`dampening = beta`, crosses) the variance does not know $\mu$: it is
# $\epsilon^2\eta/2$. Right, the drift of two weights is on the line while $\mu$ is well above the
# optimum, and leaves it where $\mu$ comes down to it (blue): a drift that is faster than the
# relaxation across is none.

# %%
heavy, averaged, over = ([fits[k, s] for s in seeds] for k in kinds)
claims.add(
    "5.1",
    "near the valley the transverse modes relax in tau_1 = Theta(1/(1-beta))",
    "004 section 1.1",
    [
        Check(
            "fitted rate / (1 - beta), mean of 12 cells (control: overdamped, mu^2 > 4 eta h)",
            [fit["rate / mu"].mean() for fit in heavy],
            0.95,
            1.05,
            control=[fit["rate / mu"].mean() for fit in over],
        )
    ],
    seeds,
)
claims.add(
    "5.2",
    "their variance is eps^2 eta / (2(1-beta)), up to the factor of the exact formula",
    "004 section 1.1 and appendix F",
    [
        Check(
            f"Monte Carlo / formula, {name} of 12 cells (control: EMA momentum)",
            [getattr(fit["V / theory"], name)() for fit in heavy],
            0.97,
            1.03,
            control=[getattr(fit["V / theory"], name)() for fit in averaged],
        )
        for name in ("min", "max")
    ],
    seeds,
)
claims.add(
    "5.3",
    "drift along the valley takes tau_2 = Theta((1-beta)^2 / (eps eta)^2)",
    "004 section 1.1; the rate is derived above",
    [
        Check(
            f"drift rate / theory at mu = {factor} mu* (control: mu*/2)",
            [drifts[factor, seed] / drift_theory[factor] for seed in seeds],
            0.97,
            1.03,
            control=[drifts[drift_near[0], s] / drift_theory[drift_near[0]] for s in seeds],
        )
        for factor in drift_factors
    ],
    seeds,
)

# %% [markdown]
# ## The time to converge, and its optimum (5.5)
#
# Integral relaxation times of the trace of the Hessian on one grid of $\mu$ for all step sizes:
# in the solvable valley, where nothing is random, and for two weights under label noise, from
# $u = 3$, $v = 1/3$. The same with EMA momentum is the control.

# %%
def times(table, rows, columns):
    """T [rows, columns, chains] of a run, in the order of its table."""
    return table["T"].to_numpy().reshape(rows, columns, -1)


read, found = {}, {}
for kind, e, two_e in (("heavy ball", etas, two_etas), ("EMA", ema_etas, two_ema)):
    read[kind] = (e, mus, times(solved[kind], len(e), len(mus)))
    for s in seeds:
        read[kind, s] = (two_e, two_mus, times(two[kind, s], len(two_e), len(two_mus)))
for key, data_points in read.items():
    found[key] = {"B": collapse_exponent(*data_points)}
    if "EMA" not in (key, key[0]):
        level = 1.5 if key == "heavy ball" else uv_level
        found[key]["A"] = argmin_exponent(*data_points)
        found[key]["C"] = crossover_exponent(*data_points, level)

# %%
fig, axes = panels(1, 3, height=3.6)
titles = ("solvable valley", "two weights", "two weights, EMA momentum")
keys = ("heavy ball", ("heavy ball", seeds[0]), ("EMA", seeds[0]))
rows = []
for ax, key, title in zip(axes, keys, titles, strict=True):
    e, m, T = read[key]
    mean = np.exp(np.log(T).mean(-1))
    for i, (eta, color) in enumerate(by_step_size(e).items()):
        ax.loglog(m, mean[i], ".-", color=color, lw=1, ms=4, label=f"{eta:.2g}")
        rows.append(pd.DataFrame({"system": title, "eta": eta, "mu": m, "T": mean[i]}))
        if "A" in found[key]:
            A = found[key]["A"]
            ax.plot(A.mu[0, i], A.T[0, i], "*", color=RED, ms=11, mec="white", zorder=5)
            rows[-1] = rows[-1].assign(mu_star=A.mu[0, i], T_star=A.T[0, i])
    ax.set(title=title, xlabel="$\\mu = 1 - \\beta$", ylabel="$T$ (steps)" * (ax is axes[0]))
    ax.set_ylim(mean.min() / 1.7, min(mean.max() * 4, 4e5))
    ax.legend(title="$\\eta$", ncols=3, fontsize="x-small", loc="upper center")
for i, eta in enumerate(etas):
    exact = valley.time(eta, np.array(mus))
    near = exact < 4 * exact.min()
    label = "$(\\tau_1 + \\tau_2)/2$" if i == 0 else None
    axes[0].loglog(np.array(mus)[near], exact[near], "--", color=BLACK, lw=0.8, label=label)
axes[0].legend(title="$\\eta$", ncols=3, fontsize="x-small", loc="upper center")
figures.save(fig, "times", pd.concat(rows))
A = found["heavy ball"]["A"]
constant = [A.mu[0] / valley.optimum(etas)[0], A.T[0] / valley.optimum(etas)[1]]
print("solvable valley, argmin / exact mu*:", constant[0].round(3))
print("                 T at it / exact T*:", constant[1].round(3))

# %% [markdown]
# **What to see:** too much momentum on the left (the relaxation across the valley is slow), too
# little on the right (the drift along it is slow), one optimum between them (stars: the quartic's
# minimum), which moves to smaller $\mu$ as the step size falls. In the solvable valley the exact
# $(\tau_1+\tau_2)/2$ (dashed) goes through the points; far on the left the window, eight times
# the best time, cuts them off. With EMA momentum there is no optimum at all: less momentum is
# never slower, and the curves become flat where $\mu$ passes about $(\epsilon\eta)^2$.

# %%
fig, axes = panels(1, 2, height=3.6)
rows = []
for name, key, color in [
    ("solvable valley", "heavy ball", BLUE),
    *(("two weights", ("heavy ball", s), RED) for s in seeds[::-1]),
]:
    e, A = np.array(read[key][0]), found[key]["A"]
    alone = key == "heavy ball" or key[1] == seeds[0]
    for ax, y, power in zip(axes, (A.mu[0], A.T[0]), (A.slope, A.time), strict=True):
        ax.loglog(e, y, "o", color=color, ms=6 if alone else 4, alpha=1 if alone else 0.5)
        middle, line = np.exp(np.log(e).mean()), np.geomspace(e[0] / 1.5, e[-1] * 1.5, 50)
        ends = [np.exp(np.log(y).mean()) * (line / middle) ** v for v in (power.low, power.high)]
        if alone:
            label = f"{name}: {power.value:.3f}" if np.isnan(power.low) else f"{name}: {power}"
            ax.loglog(line, np.exp(np.log(y).mean()) * (line / middle) ** power.value, color=color,
                      lw=1, label=label)
        ax.fill_between(line, *ends, color=color, alpha=0.15, lw=0)
    rows.append(pd.DataFrame({"system": str(key), "eta": e, "mu_star": A.mu[0], "T": A.T[0]}))
e = np.geomspace(*two_etas[::4], 50)
pivot = found["heavy ball", seeds[0]]["A"].mu[0, 2] / two_etas[2] ** np.array([0.5, 1])
for slope, style, C in ((0.5, ":", pivot[0]), (1, "-.", pivot[1])):
    axes[0].loglog(e, C * e**slope, style, color=BLACK, lw=1, label=f"slope {slope:g}")
axes[1].loglog(etas, valley.time(np.array(etas), 1.0), "--", color=BLUE, lw=1, label="solvable, no momentum")
axes[0].set(title="the fastest momentum", xlabel="$\\eta$", ylabel="$\\mu^\\star$")
axes[1].set(title="its time", xlabel="$\\eta$", ylabel="$T^\\star$ (steps)")
for ax in axes:
    ax.legend()
figures.save(fig, "optimum", pd.concat(rows))
gain = valley.time(np.array(etas), 1.0) / found["heavy ball"]["A"].T[0]
print("solvable valley, speed-up over no momentum (exact time at beta = 0 / measured T*):")
print({f"{eta:.1e}": float(f"{g:.3g}") for eta, g in zip(etas, gain, strict=True)})
names = {"A": "argmin (A)", "B": "collapse (B)", "C": "crossover (C)"}
print(
    pd.DataFrame(
        {str(key): {names[n]: str(getattr(f, "slope", getattr(f, "p", None))) for n, f in fs.items()}
         for key, fs in found.items()}
    ).T.to_string()
)

# %% [markdown]
# **What to see:** left, the optimum of the solvable valley lies on a line of slope 2/3 over two
# decades of $\eta$, within a percent of its exact constant (printed above); so does that of two
# weights, of which all seeds are drawn; slopes 1/2 and 1 do not fit. Right, the time at the optimum
# grows as $\eta^{-2/3}$, without momentum as $\eta^{-2}$: the speed-up (printed) is a thousandfold
# and more. Most of it is a gain in the effective step $\eta/\mu$, which is why the comparison with
# a fixed $\eta/(1-\beta)$ shows none.
#
# Table: the argmin (A) of two weights comes out about .01 too large, more than its interval says on
# some seed; (B) and (C) do not. With EMA momentum (A) and (C) refuse, having no optimum to find.
#
# ## Data collapse

# %%
fig, axes = panels(1, 3, height=3.3, sharey=True)
B, rows = found["heavy ball", seeds[0]]["B"], []
e, m, T = (np.array(part) for part in read["heavy ball", seeds[0]])
mean = np.exp(np.log(T).mean(-1))
for ax, (p, q), name in zip(axes, B.q_fixed.items(), ("1/2", "2/3", "1"), strict=True):
    for i, color in enumerate(by_step_size(two_etas).values()):
        used = B.used[0, i]
        x, y = m[used] * (e[2] / e[i]) ** p, mean[i, used] * (e[i] / e[2]) ** q
        ax.loglog(x, y, "o-", color=color, ms=3.5, lw=0.8, label=f"{e[i]:.2g}")
        rows.append(pd.DataFrame({"p": p, "q": q, "eta": e[i], "x": x, "y": y}))
    ax.set_title(f"p = {name}: rms of log T {B.rms[p]:.3f}")
    ax.set_xlabel("$\\mu\\,(\\eta_0/\\eta)^{p}$")
axes[0].set_ylabel("$T\\,(\\eta/\\eta_0)^{q}$ (steps)")
fig.legend(*axes[0].get_legend_handles_labels(), title="$\\eta$", loc="outside right center")
figures.save(fig, "collapse", pd.concat(rows))

# %% [markdown]
# **What to see:** the points of two weights within a factor $e^{0.9}$ of each minimum, shifted by
# $\eta^p$, with the best $q$ for each $p$ (first seed). With $p$ = 2/3 five curves become one; with
# 1/2 and 1 they miss each other by four and six times as much.

# %%
two_thirds, names = 2 / 3, ("solvable valley (exact map)", "two weights")
misfit = {k: [found[k, s]["B"].rms for s in seeds] for k in ("heavy ball", "EMA")}
claims.add(
    "5.5",
    "the fastest 1 - beta scales as eta^(2/3): solvable valley and two weights",
    "004 abstract, figure 2; the systems are ours",
    [
        Check(
            "exponent of two weights, collapse (B) (control: EMA momentum)",
            [found["heavy ball", s]["B"].p.value for s in seeds],
            two_thirds - 0.02,
            two_thirds + 0.02,
            control=[found["EMA", s]["B"].p.value for s in seeds],
        ),
        Check(
            "its interval, lower end, above 1/2",
            [found["heavy ball", s]["B"].p.low for s in seeds],
            low=0.5,
        ),
        Check(
            "its interval, upper end, below 1 (control: EMA momentum)",
            [found["heavy ball", s]["B"].p.high for s in seeds],
            high=1,
            control=[found["EMA", s]["B"].p.high for s in seeds],
        ),
        Check(
            "misfit at 1/2 and 1, the smaller one / at 2/3 (control: EMA momentum)",
            [min(rms[0.5], rms[1]) / rms[two_thirds] for rms in misfit["heavy ball"]],
            low=2,
            control=[min(rms[0.5], rms[1]) / rms[two_thirds] for rms in misfit["EMA"]],
        ),
        Check(
            "exponent of two weights, crossover (C)",
            [found["heavy ball", s]["C"].slope.value for s in seeds],
            two_thirds - 0.03,
            two_thirds + 0.03,
        ),
        Check(
            "exponent of two weights, argmin (A)",
            [found["heavy ball", s]["A"].slope.value for s in seeds],
            two_thirds - 0.05,
            two_thirds + 0.05,
        ),
        Check(
            "solvable valley (no noise, one value), collapse (B) (control: EMA momentum)",
            [found["heavy ball"]["B"].p.value] * len(seeds),
            two_thirds - 0.02,
            two_thirds + 0.02,
            control=[found["EMA"]["B"].p.value] * len(seeds),
        ),
    ],
    seeds,
)

# %% [markdown]
# ## Other powers of the step size (5.4)
#
# $\mu = C\eta^\gamma$ for seven $\gamma$. The law is one of small $\eta$, and $C$ is free: each curve
# leaves from a multiple of the optimum at the largest step size, to that side of it to which it
# moves as $\eta$ falls.

# %%
def measured_alpha(table, e):
    """Minus the slope of mean log T over log eta, for each gamma."""
    T = np.log(times(table, len(power_gammas), len(e))).mean(-1)
    return -np.polyfit(np.log(e), T.T, 1)[0]


gamma, theory = np.array(power_gammas), alpha(power_gammas)
alphas = {"solvable": measured_alpha(solved["powers"], lines)}
alphas |= {s: measured_alpha(two["powers", s], two_lines) for s in seeds}
fig, axes = panels(1, 2, height=3.4)
T = times(solved["powers"], len(gamma), len(lines))[..., 0]
for g, row, color in zip(gamma, T, by_step_size(power_gammas).values(), strict=True):
    axes[0].loglog(lines, row, "o-", color=color, ms=4, lw=1, label=f"{g:.2f}")
x = np.linspace(0.28, 1.05, 200)
axes[1].plot(x, 2 - 2 * x, ":", color=BLACK, lw=1)
axes[1].plot(x, x, ":", color=BLACK, lw=1)
axes[1].plot(x, alpha(x), color=BLACK, lw=1.2, label="max$(2 - 2\\gamma,\\ \\gamma)$")
axes[1].plot(gamma, alphas["solvable"], "o", color=BLUE, ms=7, label="solvable valley")
for s in seeds:
    label = "two weights, each seed" if s == seeds[0] else None
    axes[1].plot(gamma, alphas[s], "s", color=RED, ms=4, mfc="none", label=label)
axes[0].set(title="solvable valley, $\\mu = C\\eta^\\gamma$", xlabel="$\\eta$", ylabel="$T$ (steps)")
axes[0].legend(title="$\\gamma$", ncols=2, fontsize="small")
axes[1].set(title="$T \\propto \\eta^{-\\alpha}$", xlabel="$\\gamma$", ylabel="$\\alpha$", ylim=(0.4, 1.5))
axes[1].legend(loc="upper center")
figures.save(fig, "alpha_gamma", pd.DataFrame({"gamma": gamma, "theory": theory} | {str(k): v for k, v in alphas.items()}))
print(pd.DataFrame({"theory": theory} | alphas, gamma.round(3)).round(3).to_string())

# %%
middle, half, whole = (int(np.abs(gamma - g).argmin()) for g in (2 / 3, 1 / 2, 1))
claims.add(
    "5.4",
    "with 1 - beta = C eta^gamma the time scales as eta^-alpha, alpha = max(2 - 2 gamma, gamma)",
    "004 section 1.1, figure 1",
    [
        Check(
            "largest error of alpha, 7 gammas, solvable valley (control: theory 2 - 2 gamma alone)",
            [np.abs(alphas["solvable"] - theory).max()] * len(seeds),
            high=0.06,
            control=[np.abs(alphas["solvable"] - (2 - 2 * gamma)).max()] * len(seeds),
        ),
        Check(
            "alpha of two weights at gamma = 2/3 (control: gamma = 1/2)",
            [alphas[s][middle] for s in seeds],
            0.6,
            0.73,
            control=[alphas[s][half] for s in seeds],
        ),
        Check(
            "the same (control: gamma = 1)",
            [alphas[s][middle] for s in seeds],
            0.6,
            0.73,
            control=[alphas[s][whole] for s in seeds],
        ),
    ],
    seeds,
)

# %% [markdown]
# **What to see:** the slope of each curve on the left is one dot on the right. The time grows least
# with falling $\eta$ at $\gamma = 2/3$, and on both sides as the longer of the two time scales says.
# Two weights follow for $\gamma\leq 2/3$; to the right, where $\mu$ is far below the optimum, they
# scale better than the theory (.87 to .91 instead of 1 at $\gamma$ = 1): one residual fluctuates as
# much as it is large, and from far away the first arrival is ballistic. Only the solvable valley is
# held to .06.
#
# ## Along the valley

# %%
walk = paths["path", seeds[0]]
walk = walk.assign(trace=walk.u**2 + walk.v**2)
path_names = {path_mus[0]: "too much momentum", path_mus[1]: "optimal", path_mus[2]: "too little"}
path_colors = dict(zip(path_mus, (SKY, RED, GREEN), strict=True))
fig = plt.figure(figsize=(10, 5.6))
layout = fig.add_gridspec(2, 3, height_ratios=[1.15, 1])
under, x = fig.add_subplot(layout[1, :]), np.geomspace(0.2, 5, 200)
for i, (mu, one) in enumerate(walk.groupby("mu")):
    ax, color = fig.add_subplot(layout[0, i]), path_colors[mu]
    ax.plot(x, 1 / x, color=BLACK, lw=1)
    ax.scatter(one.u, one.v, c=one.step, cmap="viridis", s=3, zorder=3)
    ax.plot(1, 1, "*", color=RED, ms=11, mec="white", zorder=4)
    ax.set(title=f"{path_names[mu]}: $\\mu$ = {mu:.2g}", xlim=(0, 4), ylim=(0, 4), xlabel="$u$")
    ax.set_ylabel("$v$" * (i == 0))
    for seed in seeds[::-1]:
        every = paths["path", seed][paths["path", seed].mu == mu]
        style = look(seed, seeds) | {"color": color, "label": path_names[mu] * (seed == seeds[0])}
        under.semilogy(every.step, every.u**2 + every.v**2, **style)
threshold(under, 2, "flattest")
under.set(xlabel="step", ylabel="tr $H = u^2 + v^2$", xlim=(0, path_steps))
handles = [h for h in under.lines if not h.get_label().startswith("_") and h.get_label()]
under.legend(handles=handles, loc="upper right")
figures.save(fig, "along_the_valley", walk)

# %% [markdown]
# **What to see:** two weights set off at (3, 1/3) on the hyperbola of perfect fits (black; dots run
# from dark to light with time). With too little momentum they creep along it; at the optimum they
# arrive at the flattest point (star) and stay; with too much they overshoot to the other end of
# the valley, again and again. Below, all seeds.

# %%
fig = plt.figure(figsize=(7.2, 4.6))
layout = fig.add_gridspec(2, 3, height_ratios=[1.5, 1])
under, moving = fig.add_subplot(layout[1, :]), []
for i, (mu, one) in enumerate(walk.groupby("mu")):
    ax, one, color = fig.add_subplot(layout[0, i]), one.reset_index(), path_colors[mu]
    ax.plot(x, 1 / x, color=BLACK, lw=0.8)
    ax.plot(1, 1, "*", color=BLACK, ms=9)
    ax.set(xlim=(0, 4), ylim=(0, 4), xlabel="$u$", ylabel="$v$" * (i == 0))
    ax.set_title(path_names[mu], color=color)
    under.semilogy(one.step, one.trace, color=color, lw=0.6, alpha=0.4)
    drawn = [
        *ax.plot([], [], ".-", color=color, lw=0.6, ms=3),
        *ax.plot([], [], "o", color=color, ms=8, mec=BLACK),
        *under.plot([], [], color=color, lw=2),
        *under.plot([], [], "o", color=color, ms=6),
    ]
    moving.append((drawn, one))
under.set(xlabel="step", ylabel="tr $H$", xlim=(0, path_steps))
threshold(under, 2, "flattest")


def show(k):
    for (tail, here, line, dot), one in moving:
        last = one.iloc[max(0, k - 30) : k + 1]
        tail.set_data(last.u, last.v)
        here.set_data(last.u[-1:], last.v[-1:])
        line.set_data(one.step[: k + 1], one.trace[: k + 1])
        dot.set_data(one.step[k : k + 1], one.trace[k : k + 1])


frames = [*range(0, path_steps // 2, 6)]
moved = [artist for drawn, _ in moving for artist in drawn]
figures.animate(fig, "along_the_valley", moved, show, frames + frames[-1:] * 15)

# %% [markdown]
# **Limits of 5.1 to 5.5.** The law is for heavy ball *without dampening*. With EMA momentum
# ($\pi' = \beta\pi - (1-\beta)\nabla L$) the step is $\eta\mu$: the drift time does not depend on
# $\mu$, there is no optimum, and the place where momentum starts to cost time goes as $\eta^2$
# (collapse: 2.0 to 2.2 above). It is for a *fixed noise scale* $\epsilon$: the combination is
# $(\epsilon\eta)^{2/3}$. It needs $\mu^2 \ll 4\eta h$ and small $\epsilon^4\eta$ (the width of the
# cloud): at $\epsilon$ = .05 the collapse of two weights gave .675 to .682, at .15 .685 to .702.
# And it is a gain in effective step, not magic: a smaller $\mu$ at the same $\eta$ is a larger
# $\eta/\mu$.
