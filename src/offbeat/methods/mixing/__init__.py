"""Methods that mix two words or pictures while drawing; they learn no concept."""
