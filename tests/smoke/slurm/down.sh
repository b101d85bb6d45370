#!/bin/bash
# End what up.sh DIR has started, and its jobs.
set -u
dir=$(realpath -m "${1:?usage: $0 DIR}")
export SLURM_CONF=$dir/slurm.conf
timeout 10 scancel --state=pending --full 2> /dev/null
timeout 10 scancel --signal=KILL --full --state=running 2> /dev/null
sleep 1
for name in slurmd-n1 slurmd-n2 slurmctld munged; do
    [ -s "$dir/$name.pid" ] && kill "$(cat "$dir/$name.pid")" 2> /dev/null
done
exit 0
