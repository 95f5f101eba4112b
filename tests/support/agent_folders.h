/* The two folders that an agent's VM table lives in: what lasts, and what a boot takes away.
 *
 * Flow:   tests of the agent -> [agent_folders] -> the file system
 * Thread: the test's.
 */
#ifndef GODWIT_TESTS_SUPPORT_AGENT_FOLDERS_H
#define GODWIT_TESTS_SUPPORT_AGENT_FOLDERS_H

struct agent_folders {
    char state[64], run[64];
};

/* New ones, each with a vms/ that is empty. */
void agent_folders_make(struct agent_folders *folders);
/* What an agent leaves is removed; that nothing of a VM is left in them is expected. */
void agent_folders_remove(struct agent_folders *folders);

#endif
