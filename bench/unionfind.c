/*-------------------------------------------------------------------------
 *
 * unionfind.c
 *	  Components of edges that are in memory: what can be reached at best.
 *
 *	  Reads lines "a<tab>b" from standard input, then measures a union-find
 *	  by path halving over them and a pass that takes down each node's root,
 *	  and prints processor and wall seconds of these two.
 *
 * IDENTIFICATION
 *	  bench/unionfind.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double
seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static uint32_t
root_of(uint32_t *parents, uint32_t node)
{
	while (parents[node] != node)
		node = parents[node] = parents[parents[node]];
	return node;
}

int
main(void)
{
	uint32_t   *edges = NULL;
	size_t		n = 0;
	size_t		max = 0;
	size_t		i;
	uint32_t	top = 0;
	uint32_t	a;
	uint32_t	b;
	uint32_t   *parents;
	uint32_t   *components;
	double		cpu;
	double		wall;

	while (scanf("%u %u", &a, &b) == 2)
	{
		if (n + 2 > max)
		{
			max = max ? max * 2 : 1 << 20;
			edges = realloc(edges, max * sizeof(uint32_t));
			if (edges == NULL)
				return 1;
		}
		edges[n++] = a;
		edges[n++] = b;
		top = a > top ? a : top;
		top = b > top ? b : top;
	}

	cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
	wall = seconds(CLOCK_MONOTONIC);
	parents = malloc(((size_t) top + 1) * sizeof(uint32_t));
	components = malloc(((size_t) top + 1) * sizeof(uint32_t));
	if (parents == NULL || components == NULL)
		return 1;
	for (i = 0; i <= top; i++)
		parents[i] = i;
	for (i = 0; i < n; i += 2)
	{
		a = root_of(parents, edges[i]);
		b = root_of(parents, edges[i + 1]);
		if (a < b)
			parents[b] = a;
		else
			parents[a] = b;
	}
	for (i = 0; i <= top; i++)
		components[i] = root_of(parents, i);
	cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	wall = seconds(CLOCK_MONOTONIC) - wall;

	/* something that depends on all of it, lest it be left out */
	for (i = 0, a = 0; i <= top; i++)
		a ^= components[i];
	fprintf(stderr, "%u\n", a);
	printf("%.6f %.6f\n", cpu, wall);
	return 0;
}
