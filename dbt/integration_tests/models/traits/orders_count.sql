{{ config(aggregate='count', event='Order Completed') }}
