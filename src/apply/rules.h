/*-------------------------------------------------------------------------
 *
 * rules.h
 *	  Changes of the rules of identity that are on their way through history.
 *
 * IDENTIFICATION
 *	  src/apply/rules.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_RULES_H
#define CDP_RULES_H

#include "apply/cursor.h"
#include "identity/graph.h"

/* A row of cdp.rule_changes. */
typedef struct CdpRuleChange
{
	int64		id;
	bool		started;
	bool		judging;		/* all entries are read; who may be one person? */
	bool		everyone;		/* it is about all kinds: the guards are others */
	char	   *position;		/* the identifier that was judged last; NULL: none */
	int64		done;
	int64		total;
	CdpCursorSet *cursors;		/* the entries that were applied when it started … */
	CdpKindSet *before;			/* … and, as far as not read again, how */
} CdpRuleChange;

typedef struct CdpRules
{
	CdpKindSet *kinds;			/* in force for what comes */
	int			n;
	CdpRuleChange *changes;		/* by time; the last one is at work */
} CdpRules;

/*
 * The changes that are not finished; NULL when there are none.  May start some:
 * then live must have no target that is being worked off, otherwise its rest
 * is to be applied under the kinds as they were (*hold).
 */
extern CdpRules *CdpRulesLoad(CdpCursorSet *live, bool start, bool *hold);
/* How an entry is read that has been applied, or is to be. */
extern CdpKindSet *CdpRulesReading(void *arg, const CdpEntry *entry);
/* Keep how far the change at work has come. */
extern void CdpRulesWrite(CdpRules *rules, bool cursors);
/* The names of the kinds (char *) about which identifiers are to be judged again. */
extern List *CdpRulesJudged(CdpRules *rules);
/* Is any entry read otherwise than before? */
extern bool CdpRulesReadOtherwise(CdpRules *rules);
/* The names of the kinds (char *) that have another policy. */
extern List *CdpRulesRepolicied(CdpRules *rules);
/* All of them that the active snapshot sees are done. */
extern void CdpRulesFinish(void);

/* The hooks of cdp.h. */
extern void CdpRulesChanging(void);
extern void CdpRulesChanged(void);

#endif							/* CDP_RULES_H */
