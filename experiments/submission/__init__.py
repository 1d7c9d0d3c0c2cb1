"""Runs as jobs of a cluster: what is asked for, what is queued already, and what watches over a run inside its job.

profile.py      the `slurm` node of a configuration, as submitit's parameters
submit.py       all runs of a sweep: which of them to submit, then all or none
executor.py     submitit: the exact request, and queueing it
queue.py        what squeue and sbatch say
job.py          inside the job: trains, saves on a signal, asks to be queued again, gives up on no progress
attempts.py     when a run has died too often
training.py     the training process of a job
ray_cluster.py  a Ray head and workers, where a job has more than one task
watch.py        `wait=true`
"""
