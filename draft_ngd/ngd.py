# %% [parameters]
# normalised gradient descent (7.2, 7.3)
ngd_bowl = [4.0, 2.0, 1.0]  # eigenvalues of the quadratic
ngd_bowl_etas = [0.05, 0.02, 0.01, 0.005]  # lengths of a step
ngd_bowl_time = 12.0  # steps * eta
ngd_bowl_gd = 0.1  # step size of gradient descent, the control
ngd_drawn_bowl = [4.0, 1.0]  # eigenvalues of the quadratic that is drawn
ngd_drawn_eta = 0.2  # length of a step in the drawings
ngd_ravine_etas = [0.1, 0.05, 0.025]  # lengths of a step
ngd_ravine_tau = 4.0  # time eta^2 t
ngd_ravine_settled = 0.2  # time eta^2 t from which the runs are judged
ngd_ravine_gd = 0.1  # step size of gradient descent, the control
ngd_net_n = 20  # training images
ngd_net_classes = [0, 6]  # the two classes
ngd_net_size = 14  # image size in pixels
ngd_net_width = [32, 32, 32]  # hidden units
ngd_net_etas = [0.04, 0.02, 0.01]  # lengths of a step
ngd_net_tau = 0.32  # time eta^2 t
ngd_net_pieces = 20  # measurements in that time
ngd_net_settled = 0.08  # time eta^2 t from which the net is judged
ngd_net_near = 0.002  # loss at which the net's runs set off
ngd_flat_n = 50  # training images where phase II fails
ngd_flat_size = 7  # their size in pixels
ngd_flat_eta = 0.02  # length of a step there

# %%
bowl, drawn_bowl, ravine = Bowl((*ngd_bowl,)), Bowl((*ngd_drawn_bowl,)), Ravine()
ngd, gd = NormalizedGradientDescent, GradientDescent
bowl_steps = {eta: round(ngd_bowl_time / eta) for eta in ngd_bowl_etas}
tau_steps = {eta: round(ngd_ravine_tau / eta**2) for eta in ngd_ravine_etas}
few = round(ngd_ravine_tau / ngd_drawn_eta**2)
toys = {("bowl", eta): (bowl, ngd(eta), bowl_steps[eta], False) for eta in ngd_bowl_etas}
toys |= {("ravine", e): (ravine, ngd(e), tau_steps[e], False) for e in ngd_ravine_etas}
toys["bowl", "gd"] = (bowl, gd(ngd_bowl_gd), round(ngd_bowl_time / min(ngd_bowl_etas)), False)
toys["ravine", "gd"] = (ravine, gd(ngd_ravine_gd), max(tau_steps.values()), False)
toys["drawn bowl", "ngd"] = (drawn_bowl, ngd(ngd_drawn_eta), 40, False)
toys["drawn bowl", "gd"] = (drawn_bowl, gd(ngd_bowl_gd), 40, False)
toys["drawn", "ngd"] = (ravine, ngd(ngd_drawn_eta), few, False)
toys["drawn", "root"] = (ravine, gd(ngd_drawn_eta), few, True)
toys["drawn", "gd"] = (ravine, gd(ngd_ravine_gd), few, False)
names = ("toy", "rule", "steps", "root")
toys = sweep(
    descend,
    {k: dict(zip(names, v, strict=True)) | {"seeds": seeds} for k, v in toys.items()},
    "toys",
)


def two_classes(n, size):
    options = {"width": tuple(ngd_net_width), "activation": "tanh"}
    kind = ("fully_connected", options, "mse", "float64", True)
    return Problem(data, n, tuple(ngd_net_classes), size, *kind)


settings = {(s, "net"): (ngd_net_n, ngd_net_size, ngd_net_etas) for s in seeds}
settings[seeds[0], "flat"] = (ngd_flat_n, ngd_flat_size, [ngd_flat_eta])
along = sweep(
    run_along_gamma,
    {
        key: dict(
            problem=two_classes(n, size),
            etas=etas,
            seed=key[0],
            tau=ngd_net_tau,
            pieces=ngd_net_pieces,
            loss_near=ngd_net_near,
        )
        for key, (n, size, etas) in settings.items()
    },
    "networks",
)

# %% [section 7.2]

# %% [markdown]
# ## Normalised gradient descent does not converge (7.2)
#
# $x_{t+1} = x_t - \eta\,\nabla L/\|\nabla L\|$ takes steps of the length $\eta$, always. As long
# as the loss falls it follows gradient flow at unit speed, so that this *phase I* takes
# $\Theta(1/\eta)$ steps: the length of gradient flow's path, over $\eta$. After that it cannot
# stop. On a quadratic it ends in a two-cycle along the top eigenvector $u_1$, from one side of the
# minimum to the other: $|u_1 \cdot x|$ alternates between some $c$ and $\eta - c$, and the loss
# about $\lambda_1 \eta^2/8$ (its value at $c = \eta/2$; $c$ depends on the start). Below, starts
# are random on the unit sphere; the control is gradient descent.

# %%
fig, axes = panels(2, 2, height=2.9)
picture, falls, floors, lengths = axes.flat
grid = np.meshgrid(np.linspace(-1.15, 1.15, 121), np.linspace(-1.15, 1.15, 121))
height = (ngd_drawn_bowl[0] * grid[0] ** 2 + ngd_drawn_bowl[1] * grid[1] ** 2) / 2
picture.contour(*grid, height, levels=np.geomspace(0.01, 3, 9), colors="#cccccc", linewidths=0.8)
for name, color in (("gd", BLUE), ("ngd", RED)):
    path = toys["drawn bowl", name][lambda t: t.seed == seeds[0]]
    label = {"gd": "gradient descent", "ngd": f"normalised, $\\eta$ = {ngd_drawn_eta}"}[name]
    picture.plot(path.w0, path.w1, "o-", ms=3, lw=1, color=color, label=label)
picture.set(title="a quadratic", xlabel="$u_1 \\cdot x$ (steep)", ylabel="$u_2 \\cdot x$ (flat)")
picture.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15))
picture.grid(False)
colors, top = by_step_size(ngd_bowl_etas), ngd_bowl[0]
arcs = {seed: bowl.arc(bowl.start(seed)) for seed in seeds}
rows, ends = [], []
for seed in seeds:
    runs = {eta: toys["bowl", eta][lambda t, s=seed: t.seed == s] for eta in [*ngd_bowl_etas, "gd"]}
    for eta in ngd_bowl_etas:
        run = runs[eta]
        falls.semilogy(run.step * eta, run.loss, color=colors[eta], **look(seed, seeds))
        pairs = pair_sums(run, top)
        end = {"worst": abs(pairs / eta - 1).max(), "floor": top / 8 * (pairs**2).mean()}
        end |= {"seed": seed, "eta": eta, "phase": first_rise(run.loss) * eta / arcs[seed]}
        ends.append(end)
        rows.append(run.assign(eta=eta))
    run = runs["gd"]
    falls.semilogy(run.step * ngd_bowl_gd, run.loss, color=BLUE, ls=":", **look(seed, seeds))
    ends.append({"seed": seed, "eta": np.nan, "phase": first_rise(run.loss)})
    ends[-1]["worst"] = abs(pair_sums(run, top) / ngd_bowl_gd - 1).max()
    rows.append(run.assign(eta=np.nan))
ends = pd.DataFrame(ends)
for eta in ngd_bowl_etas:
    threshold(falls, top * eta**2 / 8, f"$\\eta$ = {eta:g}", colors[eta])
falls.set(title="loss: phase I, then a floor", xlabel="steps × $\\eta$", ylabel="$L$")
falls.set(xlim=(0, 2.5), ylim=(3e-6, 3))
falls.text(2.05, 0.012, "gradient\ndescent", color=BLUE, ha="left", fontsize="small")
normalised = ends.dropna(subset="eta")
line = np.array([min(ngd_bowl_etas), max(ngd_bowl_etas)])
floors.loglog(line, top * line**2 / 8, "--", color=BLACK, lw=1)
floors.loglog(normalised.eta, normalised.floor, "o", color=RED, mfc="none")
floors.text(line[0] * 1.3, top * line[0] ** 2 / 8, "$\\lambda_1 \\eta^2/8$")
floors.set(title="the floor", xlabel="$\\eta$", ylabel="$\\lambda_1 s^2 / 8$")
lengths.semilogx(normalised.eta, normalised.phase, "o", color=RED, mfc="none")
threshold(lengths, 1)
lengths.set(title="length of phase I", xlabel="$\\eta$", ylim=(0, 1.3))
lengths.set(ylabel="steps × $\\eta$ / path of flow")
fig.legend(*picture.get_legend_handles_labels(), loc="outside lower center", ncols=2)
figures.save(fig, "normalised_quadratic", pd.concat(rows)[lambda t: t.step % 5 == 0])

# %% [markdown]
# **What to see:** top left: normalised descent (red) comes down like gradient descent, and then
# jumps from one side of the valley to the other for ever. Top right: the loss of every start falls
# until the same time, whatever $\eta$, and then stays about its dashed $\lambda_1\eta^2/8$;
# gradient descent (dotted) goes to zero. Bottom: the way $s$ from one side to the other, over two
# steps, is $\eta$, so that the floor is proportional to $\eta^2$; and phase I takes as many steps
# of $\eta$ as gradient flow's path is long.

# %%
by_seed = normalised.groupby("seed")
slopes = [order(g.eta, g.floor) for _, g in by_seed]
control = ends[ends.eta.isna()]
claims.add(
    "7.2",
    "normalised gradient descent does not converge even on quadratics; phase I lasts "
    "Theta(1/eta) steps (control: gradient descent)",
    "001 normalized GD, after Arora, Li and Panigrahi",
    [
        Check(
            "largest abs(s / eta - 1) in the two-cycle",
            by_seed.worst.max(),
            high=1e-3,
            control=control.worst,
        ),
        Check("exponent of the floor in eta", slopes, 1.98, 2.02),
        Check(
            "largest abs(steps of phase I * eta / path of gradient flow - 1)",
            by_seed.phase.agg(lambda p: abs(p - 1).max()),
            high=0.1,
            control=abs(control.phase - 1),
        ),
    ],
    seeds,
)

# %% [section 7.3]

# %% [markdown]
# ## Phase II: it walks to flatter minima (7.3)
#
# Where the minimisers form a manifold $\Gamma$, the two-cycle does not stay where it is. Arora, Li
# and Panigrahi prove that phase II drifts along $\Gamma$ by the *limiting flow*
# $$\frac{dX}{d\tau} = -\tfrac14\,P\,\nabla \log\lambda_1(X),\qquad \tau = \eta^2 t,$$
# with $P$ the projection on the tangent space of $\Gamma$: $\Theta(1/\eta^2)$ steps that lower the
# sharpness. Gradient descent on $\sqrt L$ does the same by $-\frac18 P\,\nabla\lambda_1$. First
# figure 3 of the paper, on $L = \frac12 (1+x^2)\,y^2$, where both flows have closed forms.

# %%
fig, axes = panels(1, 2, height=3.9, sharex=True, sharey=True)
grid = np.meshgrid(np.linspace(0, 2.7, 181), np.linspace(-0.35, 1.3, 121))
height = (1 + grid[0] ** 2) * grid[1] ** 2 / 2
first = seeds[0]
x0, y0 = ravine.start(first).tolist()
limit = ravine.limit(x0, y0)
ys = np.linspace(0.003, y0, 200)
xs = [ravine.limit(x0, (y0**2 - y**2) ** 0.5) for y in ys]
ends = {"ngd": ravine.flow(limit, ngd_ravine_tau), "root": ravine.root_flow(limit, ngd_ravine_tau)}
titles = {"ngd": "normalised gradient descent", "root": "gradient descent on $\\sqrt{L}$"}
rows = []
for ax, (name, title) in zip(axes, titles.items(), strict=True):
    ax.contour(*grid, height, levels=np.geomspace(0.003, 3, 10), colors="#cccccc", linewidths=0.8)
    ax.axhline(0, color=GREEN, lw=2.5, alpha=0.6)
    ax.plot(xs, ys, color=BLACK, lw=1.2, ls="--")
    path = toys["drawn", name][lambda t: t.seed == first]
    turn = int(first_rise(path.loss))
    ax.plot(path.w0[: turn + 1], path.w1[: turn + 1], "o-", ms=3.5, lw=1, color=BLUE)
    ax.plot(path.w0[turn:], path.w1[turn:], "o-", ms=2.5, lw=0.6, color=RED)
    arrow = {"arrowstyle": "-|>", "color": BLACK, "lw": 1.8}
    ax.annotate("", (ends[name], -0.24), (limit, -0.24), arrowprops=arrow)
    ax.text((ends[name] + limit) / 2, -0.33, "limiting flow", ha="center", va="center")
    ax.set(title=f"{title}, $\\eta$ = {ngd_drawn_eta}", xlabel="$x$ (along $\\Gamma$)")
    ax.set(xlim=(0, 2.7), ylim=(-0.4, 1.3))
    ax.grid(False)
    rows.append(path.assign(rule=name))
axes[0].set_ylabel("$y$")
spot = (xs[len(xs) // 2] - 0.08, ys[len(ys) // 2])
axes[0].text(*spot, "phase I:\ngradient flow", color=BLUE, ha="right", va="center")
axes[0].text((ends["ngd"] + limit) / 2, 0.27, "phase II: zigzag", color=RED, ha="center")
axes[0].text(0.05, 0.04, "$\\Gamma$: $L = 0$", color=GREEN, weight="bold")
figures.save(fig, "two_phases", pd.concat(rows))

# %% [markdown]
# **What to see:** phase I (blue) comes down beside gradient flow (dashed, to the end). Phase II
# (red) jumps across $\Gamma$ (green) at every step, and walks along it to where the valley is
# wide, all the way that the limiting flow (arrow) goes in the same time. Grey: levels of $L$.

# %%
fig, axes = panels(1, 3, height=3.0)
colors, taus = by_step_size(ngd_ravine_etas), np.linspace(0, ngd_ravine_tau, 81)
parts = []
for (name, eta), table in toys.items():
    if name == "ravine":
        size = max(ngd_ravine_etas) if eta == "gd" else eta
        for seed, run in table.groupby("seed"):
            part = on_ravine(run, size, taus).assign(seed=seed, eta=size, rule=str(eta))
            parts.append(part)
beside = pd.concat(parts, ignore_index=True)
control = beside[beside.rule == "gd"]
beside = beside[beside.rule != "gd"]
for (eta, seed), part in beside.groupby(["eta", "seed"]):
    style = {"color": colors[eta]} | look(seed, seeds)
    label = f"$\\eta$ = {eta:g}" if seed == seeds[0] else None
    axes[0].plot(part.tau, part.sharpness, label=label, **style)
    axes[1].plot(part.tau / eta, part.sharpness, **style)
for seed, part in control.groupby("seed"):
    axes[0].plot(part.tau, 1 + part.flow**2, ":", color=BLACK, lw=1.8)
    axes[0].plot(part.tau, part.sharpness, "--", color=BLUE, **look(seed, seeds))
error = beside[beside.tau >= ngd_ravine_settled].groupby(["seed", "eta"]).error.max()
for seed, part in error.groupby("seed"):
    axes[2].loglog(part.index.get_level_values("eta"), part, "o-", color=RED, **look(seed, seeds))
sizes = np.array([min(ngd_ravine_etas), max(ngd_ravine_etas)])
axes[2].loglog(sizes, 0.04 * sizes, "--", color=BLACK, lw=1)
axes[2].text(sizes[0], 0.026 * sizes[0], "proportional to $\\eta$", va="top")
axes[0].set(title="by $\\eta^2 t$: one curve for each start", xlabel="$\\tau = \\eta^2 t$")
axes[0].set(ylabel="sharpness $1 + x^2$", ylim=(0, None))
axes[1].set(title="by $\\eta t$: not", xlabel="$\\eta t$", ylim=axes[0].get_ylim())
axes[2].set(title="largest distance from the flow", xlabel="$\\eta$", ylabel="$|x_t - X(\\tau)|$")
handles, labels = axes[0].get_legend_handles_labels()
handles += [axes[0].lines[-2], axes[0].lines[-1]]
labels += ["limiting flow", "gradient descent (control)"]
fig.legend(handles, labels, loc="outside lower center", ncols=5)
figures.save(fig, "ravine", pd.concat([beside, control]))

# %% [markdown]
# **What to see:** left: from each start the sharpness of all step lengths falls on one curve by
# $\eta^2 t$, that of the limiting flow (dotted), while gradient descent (dashed) stays at the
# minimum that gradient flow goes to. Middle: by $\eta t$, the clock of phase I, there are as many
# curves as step lengths. Right: the distance from the flow falls with $\eta$.

# %%
fig, axes = panels(2, 3, height=2.7)
colors, parts = by_step_size(ngd_net_etas), []
for (seed, name), table in along.items():
    seen = table.dropna(subset="sharpness").assign(seed=seed, net=name)
    flow = seen[seen.rule == "flow"].set_index("tau")
    way = flow.moved.iloc[-1]
    near = flow.index.to_numpy().searchsorted(seen.tau - 1e-9)
    seen["flow"] = flow.sharpness.to_numpy()[near]
    seen["relative"], seen["kappa"] = seen.distance / way, flow.condition.iloc[0]
    parts.append(seen)
seen = pd.concat(parts, ignore_index=True)
nets, flat = seen[seen.net == "net"], seen[seen.net == "flat"]
walks, descents = nets[nets.rule == "normalised"], nets[nets.rule == "descent"]
for (eta, seed), part in walks.groupby(["eta", "seed"]):
    style = {"color": colors[eta]} | look(seed, seeds)
    label = f"$\\eta$ = {eta:g}" if seed == seeds[0] else None
    axes[0, 0].plot(part.tau, part.sharpness, label=label, **style)
    axes[0, 1].plot(part.tau / eta, part.sharpness, **style)
    axes[0, 2].semilogy(part.tau, part.relative, **style)
    axes[1, 0].semilogy(part.step + 1, 1 - part.alignment, **style)
for seed, part in descents.groupby("seed"):
    style = {"color": BLUE, "ls": "--"} | look(seed, seeds)
    axes[0, 0].plot(part.tau, part.sharpness, **style)
    axes[0, 2].semilogy(part.tau, part.relative, **style)
    axes[1, 0].semilogy(part.step + 1, 1 - part.alignment, **style)
for _, part in nets[nets.rule == "flow"].groupby("seed"):
    axes[0, 0].plot(part.tau, part.sharpness, ":", color=BLACK, lw=1.8)
late = walks[walks.tau >= ngd_net_settled - 1e-9]
error = late.groupby(["seed", "eta"]).relative.max()
for seed, part in error.groupby("seed"):
    axes[1, 1].loglog(part.index.get_level_values("eta"), part, "o-", color=RED, **look(seed, seeds))
figures.save(fig, "normalised_network", seen)
