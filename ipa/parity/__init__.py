"""The parity lab: where do two backends, or two machines, first differ, and by how much?"""
