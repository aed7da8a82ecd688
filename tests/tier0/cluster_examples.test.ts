/** The files for launchers: shells read them, the options exist, and the MPIJob has fields of the operator's v2beta1. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { parse } from "yaml";

const folder = join(import.meta.dirname, "..", "..", "examples", "cluster");
const read = (name: string): string => readFileSync(join(folder, name), "utf8");
type Fields = { readonly [name: string]: Fields | null };

/** Fields of an MPIJob, as its CustomResourceDefinition has them (kubeflow/mpi-operator caa3c47, July 2026), and those of a pod that are used here. */
const POD: Fields = {
  spec: {
    containers: { name: null, image: null, command: null, args: null, env: { name: null, value: null }, resources: { limits: { "nvidia.com/gpu": null } }, volumeMounts: { name: null, mountPath: null } },
    terminationGracePeriodSeconds: null,
    volumes: { name: null, persistentVolumeClaim: { claimName: null } },
  },
}; // prettier-ignore
const REPLICAS: Fields = { replicas: null, restartPolicy: null, template: POD };
const MPI_JOB: Fields = {
  apiVersion: null,
  kind: null,
  metadata: { name: null },
  spec: {
    launcherCreationPolicy: null, mpiImplementation: null, runLauncherAsWorker: null, slotsPerWorker: null, sshAuthMountPath: null,
    mpiReplicaSpecs: { Launcher: REPLICAS, Worker: REPLICAS },
    runPolicy: { activeDeadlineSeconds: null, backoffLimit: null, cleanPodPolicy: null, managedBy: null, schedulingPolicy: null, suspend: null, ttlSecondsAfterFinished: null },
  },
}; // prettier-ignore

function unknownFields(value: unknown, fields: Fields | null, path: string): string[] {
  if (Array.isArray(value)) return value.flatMap((one) => unknownFields(one, fields, path));
  if (typeof value !== "object" || value === null || !fields) return [];
  return Object.entries(value).flatMap(([name, one]) => (name in fields ? unknownFields(one, fields[name]!, `${path}.${name}`) : [`${path}.${name}`])); // prettier-ignore
}

const job = parse(read("mpijob.yaml")) as {
  apiVersion: string;
  kind: string;
  spec: { mpiImplementation: string; mpiReplicaSpecs: { Launcher: { template: { spec: { containers: { args: string[] }[] } } } } };
}; // prettier-ignore
const script = job.spec.mpiReplicaSpecs.Launcher.template.spec.containers[0]!.args[0]!;

it("the MPIJob has fields of v2beta1 alone", () => {
  expect([job.apiVersion, job.kind, job.spec.mpiImplementation]).toEqual(["kubeflow.org/v2beta1", "MPIJob", "OpenMPI"]);
  expect(unknownFields(job, MPI_JOB, "MPIJob")).toEqual([]);
  expect(unknownFields({ spec: { slotPerWorker: 8 } }, MPI_JOB, "MPIJob")).toEqual(["MPIJob.spec.slotPerWorker"]);
});

it.each([
  ["mpirun.sh", read("mpirun.sh")],
  ["train.sbatch", read("train.sbatch")],
  ["mpijob.yaml", script],
])("bash reads %s, and it starts the training with the options that there are", (_, text) => {
  expect(spawnSync("bash", ["-n"], { input: text, encoding: "utf8" })).toMatchObject({ status: 0, stderr: "" });
  const options = [...text.matchAll(/(?<= )--(?:model|run|cache|data)\b/g)].map(([option]) => option);
  expect(options).toEqual(["--model", "--run", "--cache", "--data"]);
  expect(text).toContain("janus train stage2");
});
