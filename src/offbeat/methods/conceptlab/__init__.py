"""ConceptLab: a token held near some classes and away from others."""
