"""Around the steps of a training: its plan beforehand, log and probe meanwhile, the released model afterwards."""
