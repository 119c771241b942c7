/*-------------------------------------------------------------------------
 *
 * plan.h
 *	  Tracking plans: the properties that the entries of an event should have.
 *
 *	  What a plan says of an entry follows from the entry, the versions of the
 *	  plans and the releases alone, so whoever reads the entry finds the same.
 *
 * IDENTIFICATION
 *	  src/trust/plan.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_TRUST_PLAN_H
#define CDP_TRUST_PLAN_H

#include "postgres.h"

#include "collect/collect.h"
#include "nodes/pg_list.h"

typedef enum CdpPlanMode
{
	CDP_PLAN_ALLOW, /* what is wrong is counted */
	CDP_PLAN_DROP, /* properties that are wrong are not there */
	CDP_PLAN_QUARANTINE /* the entry does not count */
} CdpPlanMode;

/* A version of a plan. */
typedef struct CdpPlan
{
	CdpEntryType type;
	text *type_name;
	text *event;
	int32 version;
	CdpPlanMode mode;
	TimestampTz from;
	TimestampTz until;
	Jsonb *definition;
	struct CdpSchema *schema; /* NULL: not compiled yet */
	struct CdpPlan *next; /* of the same type and event */
	int64 judged; /* in the batch that is counted … */
	int64 violating;
} CdpPlan;

/* An entry that counts whatever plans say, or (corrected) never, as a copy does. */
typedef struct CdpPlanRelease
{
	int64 entry;
	bool corrected;
} CdpPlanRelease;

/* All versions that judge anything, and the releases. */
typedef struct CdpPlanSet
{
	MemoryContext context;
	Oid extension; /* whose: the schema's oid */
	int64 key; /* generation of the definitions, or number of a change */
	int n;
	CdpPlan *plans;
	struct HTAB *slots; /* by type and event */
	bool acts; /* keeps any entry from counting */
	int nreleases;
	CdpPlanRelease *releases; /* in order of entries */
} CdpPlanSet;

/* Why an entry does not count, as cdp.rejected has it. */
#define CDP_PLAN_REASON "tracking plan"

/* plan_set.c.  Valid until the next call under another generation. */
extern CdpPlanSet *CdpPlanSetNow(void);
/* As they were before a change that is on its way through history (cdp.rule_changes.id). */
extern CdpPlanSet *CdpPlanSetBefore(int64 change);
/* Let go of those before changes that are earlier than this one. */
extern void CdpPlanSetsForget(int64 change);
/* Do both say the same of every entry? */
extern bool CdpPlanSetsAlike(CdpPlanSet *a, CdpPlanSet *b);
/* The version that judges the entry; NULL: none. */
extern CdpPlan *CdpPlanOf(CdpPlanSet *set, CdpEntry *entry);
/* What is wrong with the properties that the log has: CdpSchemaViolation *. */
extern List *CdpPlanViolations(CdpPlanSet *set, CdpPlan *plan, CdpEntry *entry);
/* A path of a violation without indexes, so that all elements of an array have one; of bounded length. */
extern char *CdpPlanPath(const char *path);
/* From _PG_init: the hook of identity/graph.h. */
extern void CdpPlansInit(void);

/*
 * plan.c: count what is wrong with entries of a batch, each by the plan that was
 * in force when it was received.  Inside SPI_connect and CdpBecomeOwner.
 */
extern void CdpPlansJudge(CdpEntry **entries, int n);

#endif /* CDP_TRUST_PLAN_H */
