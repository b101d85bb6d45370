#!/bin/bash
# A SLURM of two nodes on this host, in a folder of its own: up.sh DIR, then export the SLURM_CONF
# that it prints. Debian: apt-get install --no-install-recommends slurm-wlm munge
#
# Partition "low" (the default) is preempted and requeued by "high".
set -eu
PATH=$PATH:/usr/sbin
dir=$(realpath -m "${1:?usage: $0 DIR}")
host=$(hostname -s)
user=$(id -un)
base=${2:-16800} # first of the ports
mkdir -p "$dir"/state "$dir"/log "$dir"/spool-n1 "$dir"/spool-n2
cat > "$dir/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# A requeued job waits until its credential has expired.
AuthInfo=socket=$dir/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort=$base
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmdSpoolDir=$dir/spool-%n
StateSaveLocation=$dir/state
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
# No cgroups, no accounting: none of it is there in a container.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
# Lightning makes its port of the job id: two clusters on one host do not meet.
FirstJobId=$base
ReturnToService=2
SlurmdTimeout=10
KillWait=2
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 1)) CPUs=2 RealMemory=2000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 2)) CPUs=2 RealMemory=2000
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 MaxTime=INFINITE
PartitionName=high Nodes=n1,n2 PriorityTier=2 PreemptMode=OFF MaxTime=INFINITE
END
export SLURM_CONF=$dir/slurm.conf
(umask 077; head -c 1024 /dev/urandom > "$dir/munge.key")
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" \
    --pid-file="$dir/munged.pid" --seed-file="$dir/munge.seed" --log-file="$dir/log/munged.log"
slurmctld
slurmd -N n1
slurmd -N n2
for _ in $(seq 60); do
    if [ "$(sinfo -h -p low -t idle -o %D 2> /dev/null)" = 2 ]; then
        echo "SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 0.5
done
tail "$dir"/log/*.log >&2
exit 1
