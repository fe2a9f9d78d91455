"""Runtimes: what executes models on devices. Plug-ins behind one interface (`base`); none knows another."""
