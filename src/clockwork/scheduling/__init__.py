"""Policies: which action goes where and when. No policy knows another; `registry` knows their names."""
