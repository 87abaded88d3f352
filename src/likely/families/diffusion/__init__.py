"""Diffusion models in one parametrisation: schedule, prediction, weighting and sampler are four independent choices.

Noise is added to x along a falling log-SNR lambda,

    z = alpha x + sigma eps,   alpha^2 = sigmoid(lambda),  sigma^2 = sigmoid(-lambda),  eps ~ N(0, I),

and a network learns x_hat(z, lambda) = E[x given z], from which every other quantity follows. DDPM, variational
diffusion, EDM, v-prediction and flow matching are presets of this one family: rows of its table of choices, not
classes.
"""
