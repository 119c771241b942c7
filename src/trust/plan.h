/*-------------------------------------------------------------------------
 *
 * plan.h
 *	  Tracking plans: what is wrong with the properties of entries is counted.
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

/*
 * Judge the entries of a batch that count, each by the plan that was in force
 * when it was received.  Inside SPI_connect and CdpBecomeOwner.
 */
extern void CdpPlansJudge(CdpEntry **entries, int n, int64 generation);

#endif /* CDP_TRUST_PLAN_H */
